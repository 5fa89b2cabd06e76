"""Preference scores: how much people like a picture for its prompt, as a CLIP has learnt it from their choices."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from drtune.models.miniature import CHECKPOINT
from drtune.rewards.clip import CLIPReward, Towers, TowersReward
from drtune.rewards.loading import from_pickle
from drtune.rewards.openclip import ABOUT_VIT_H_14, to_clip_model
from drtune.rewards.preprocessing import Letterbox, Squeeze, TransformersCrop
from drtune.rewards.weights import weights_of

VIT_H_14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""The CLIP from which HPS and PickScore were tuned; its tokenizer is theirs."""


class MiniaturePreference(TowersReward):
    """Cosine of image and caption in [-1, 1], as the Human Preference Score v2.1 is computed.

    The model knows the drawn world only. Pictures of another size are resized to 32 x 32, bilinear.
    """

    name = "preference"
    weights = ""

    def __init__(self, *, antialias: bool) -> None:
        folder = CHECKPOINT / "preference"
        self.towers = Towers(CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))
        self.preprocessing = Squeeze(self.towers.side, antialias)

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        return self.towers.cosine(pixels_BCHW, prompts)


class HumanPreferenceScore(CLIPReward):
    """HPS v2.1 (Wu et al. 2023, arXiv 2306.09341): cosine of image and prompt, about 0.2 to 0.4.

    The published benchmark prints it times 100. The image's longer side is resized to 224 pixels, and the other one
    padded with zeros before the colours are normalised; `logit_scale` is not used. The prompt is mended before it is
    read, as `mended` says.
    """

    name = "hps"
    repository = "xswu/HPSv2"
    file = "HPS_v2.1_compressed.pt"
    digest = "md5:4067542e34ba2553a738c5ac6c1d75c0"
    words = VIT_H_14
    sees = Letterbox

    @classmethod
    def network(cls, checkpoint: Path | None) -> tuple[CLIPModel, str]:
        """The published network or the checkpoint's, which is a pickle of OpenCLIP's, and which file it is.

        One of your own may have another size, with its open_clip_config.json beside it.
        """
        path, told = weights_of(cls.name, cls.repository, cls.file, cls.digest, checkpoint=checkpoint)
        beside = path.with_name("open_clip_config.json")

        def build(checkpoint: dict[str, Any]) -> CLIPModel:
            about = json.loads(beside.read_bytes())["model_cfg"] if beside.is_file() else ABOUT_VIT_H_14
            return to_clip_model(checkpoint["state_dict"], about)

        model = from_pickle(cls.name, path, "OpenCLIP", build)
        return model, told

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        return self.towers.cosine(pixels_BCHW, [mended(prompt) for prompt in prompts])


class HumanPreferenceScoreV20(HumanPreferenceScore):
    """HPS v2.0, which was released with the paper; computed as v2.1 is, on another scale."""

    name = "hps_v2"
    file = "HPS_v2_compressed.pt"
    digest = "md5:fd9180de357abf01fdb4eaad64631db4"


class PickScore(CLIPReward):
    """PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569): exp(logit_scale) * cosine, about 20 to 24.

    The image's shorter side is resized to 224 pixels and the centre of the longer one is seen. The prompt is read as
    transformers' tokenizer reads it, not mended.
    """

    name = "pickscore"
    repository = "yuvalkirstain/PickScore_v1"
    digest = None
    words = VIT_H_14
    sees = TransformersCrop

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        cosine = self.towers.cosine(pixels_BCHW, prompts)
        scale: Tensor = self.towers.model.logit_scale.exp()
        return scale.to(cosine.dtype) * cosine


def mended(prompt: str) -> str:
    """The prompt as OpenCLIP's tokenizer cleans it: broken encodings, quotes and HTML's entities, spaces, and case.

    (tgxs002/HPSv2 at 866735e, hpsv2/src/open_clip/tokenizer.py, `basic_clean` and `whitespace_clean`.) The tokenizer of
    transformers does the last two alone: curly quotes, full-width commas and `&amp;` would become other tokens.

    >>> mended("R&amp;B singer,  “Live”")
    'r&b singer, "live"'
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split()).lower()

"""Rewards on OpenAI's CLIP ViT-L/14: CLIPScore, and LAION's aesthetic predictor.

Both see the picture as CLIP does: its shorter side resized to 224 pixels, and the centre of the longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import CLIPModel

from drtune.rewards.clip import CLIPReward, unit
from drtune.rewards.head import Head
from drtune.rewards.loading import from_pickle, network_from_hub
from drtune.rewards.preprocessing import NetworkReward, TorchvisionCrop, TransformersCrop
from drtune.rewards.weights import weights_of

VIT_L_14 = "openai/clip-vit-large-patch14"
"""OpenAI's CLIP ViT-L/14 with its quick GELU, as transformers has it."""
DIGEST = "sha256:a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"


class CLIPScore(CLIPReward):
    """100 times the cosine of image and prompt, about 15 to 35.

    The CLIPScore of Hessel et al. 2021 (arXiv 2104.08718) is 2.5 * max(cosine, 0) of a ViT-B/32 and "A photo depicts"
    before the prompt. Here the prompt stands as it is, and nothing is clamped: a clamped score has no gradient. Picture
    and prompt are read as transformers' CLIPProcessor reads them, as in the CLIPScore of torchmetrics.
    """

    name = "clipscore"
    repository = words = VIT_L_14
    digest = DIGEST
    sees = TransformersCrop

    @classmethod
    def network(cls, checkpoint: Path | None) -> tuple[CLIPModel, str]:
        """The published network or the checkpoint's, and which file of which CLIP it is."""
        model, weights = super().network(checkpoint)
        return model, f"{checkpoint or VIT_L_14} {weights}"

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        return 100 * self.towers.cosine(pixels_BCHW, prompts)


class Aesthetic(NetworkReward):
    """LAION Aesthetic v2 (Schuhmann 2022, improved-aesthetic-predictor): the rating that people would give, 1 to 10.

    A linear head on the unit image embedding. The prompt is not read.
    """

    name = "aesthetic"
    repository = "camenduru/improved-aesthetic-predictor"
    """A copy on the hub of the file that its author has on GitHub; the digest holds them equal."""
    file = "sac+logos+ava1-l14-linearMSE.pth"
    digest = "sha256:21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"

    def __init__(self, model: CLIPModel, head: Head, weights: str, *, antialias: bool) -> None:
        model.eval().requires_grad_(False)
        self.vision, self.projection, self.head = model.vision_model, model.visual_projection, head  # no text tower
        self.weights = weights
        self.preprocessing = TorchvisionCrop(self.vision.config.image_size, antialias)

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or a head of a checkpoint on the published CLIP.

        Raises:
            UserError: they are not to be had, or are no such network.
        """
        path, told = weights_of(cls.name, cls.repository, cls.file, cls.digest, checkpoint=checkpoint)
        model, weights = network_from_hub(CLIPModel, cls.name, VIT_L_14, DIGEST)
        width = model.config.projection_dim
        head = from_pickle(cls.name, path, "aesthetic predictor's", lambda state: Head.of(state, width))
        return cls(model, head, f"{told} on {VIT_L_14} {weights}", antialias=antialias)

    def judge(self, pixels_BCHW: Tensor, _prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        for part in (self.vision, self.projection):
            part.to(pixels_BCHW.device, pixels_BCHW.dtype)
        embedding_BD = self.projection(self.vision(pixel_values=pixels_BCHW).pooler_output)
        scores: Tensor = self.head(unit(embedding_BD))
        return scores

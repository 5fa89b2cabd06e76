"""ImageReward: a BLIP whose text encoder looks at the picture, and a head that reads a score off it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from drtune.rewards.head import Head
from drtune.rewards.loading import filled, from_pickle, num_heads, under
from drtune.rewards.preprocessing import NetworkReward, TorchvisionCrop
from drtune.rewards.weights import fetch, weights_of

HEAD_WIDTH = 64
"""Of the vision tower's attention, which a checkpoint's shapes do not tell."""
TOKENS = 35
"""What the text encoder reads of a prompt, with the marks of its beginning and end."""
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores, as published with the code: rewards have about mean 0 and deviation 1 on its own data."""

_VISION_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embedding.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(\w+)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"encoder.layers.\1.self_attn.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"encoder.layers.\1.self_attn.projection.\2"),
    (r"blocks\.(\d+)\.mlp\.(\w+)\.(\w+)", r"encoder.layers.\1.mlp.\2.\3"),
    (r"norm\.(\w+)", r"post_layernorm.\1"),
)


class Network(nn.Module):
    """Vision tower, text encoder with cross-attention to it, and head; frozen."""

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel, head: Head) -> None:
        super().__init__()
        self.vision, self.text, self.head = vision, text, head
        self.eval().requires_grad_(False)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], text_config: Mapping[str, Any]) -> Self:
        """Of a state dict in the published layout: `blip.visual_encoder.*`, `blip.text_encoder.*` and `mlp.*`.

        What else there is, BLIP's projections for contrastive training, is not read.

        Args:
            state: the weights by their published names.
            text_config: of the text encoder, as in BLIP's med_config.json.

        Raises:
            LookupError, ValueError: a weight is missing, unknown or of the wrong shape.
        """
        vision, text, head = (under(prefix, state) for prefix in ("blip.visual_encoder.", "blip.text_encoder.", "mlp."))
        text.pop("embeddings.position_ids", None)  # the numbers 0, 1, 2, ..., not a weight
        width = len(vision["patch_embed.proj.weight"])
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        encoder = BlipTextConfig(
            **{name: text_config[name] for name in (*names, "max_position_embeddings", "layer_norm_eps", "hidden_act")},
            encoder_hidden_size=width,
        )
        return cls(
            filled(BlipVisionModel, _vision_config(vision), {_vision_name(key): vision[key] for key in vision}),
            filled(BlipTextModel, encoder, text, add_pooling_layer=False),
            Head.of(head, encoder.hidden_size),
        )

    def forward(self, pixels_BCHW: Tensor, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Raw scores (B,) of images (B, 3, side, side), normalised as CLIP's, and prompts; the mask is 1 on words."""
        seen_BND = self.vision(pixel_values=pixels_BCHW).last_hidden_state
        read_BLD = self.text(tokens_BL, attention_mask=mask_BL, encoder_hidden_states=seen_BND).last_hidden_state
        scores: Tensor = self.head(read_BLD[:, 0])
        return scores


class ImageReward(NetworkReward):
    """ImageReward v1.0 (Xu et al. 2023, arXiv 2304.05977): how people rank pictures for a prompt, about -2 to 2.

    The image's shorter side is resized to 224 pixels and the centre of the longer one is seen. The prompt is read
    together with the picture, so its encoding cannot be kept, and the gradient passes through the text encoder.
    """

    name = "imagereward"
    repository = "THUDM/ImageReward"
    file = "ImageReward.pt"
    config = "med_config.json"
    words = "google-bert/bert-base-uncased"

    def __init__(self, network: Network, tokenizer: BertTokenizer, weights: str, *, antialias: bool) -> None:
        self.network, self.tokenizer, self.weights = network, tokenizer, weights
        self.preprocessing = TorchvisionCrop(network.vision.config.image_size, antialias)

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or those of a checkpoint in their place.

        No digest to hold them against is known: theirs is told instead.

        Raises:
            UserError: they are not to be had, or are no such checkpoint.
        """
        path, told = weights_of(cls.name, cls.repository, cls.file, beside=(cls.config,), checkpoint=checkpoint)
        words = fetch(cls.name, cls.words, ("vocab.txt",))
        network = from_pickle(
            cls.name, path, "ImageReward", lambda state: Network.of(state, _json(path.with_name(cls.config)))
        )
        return cls(network, BertTokenizer.from_pretrained(words), told, antialias=antialias)

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        for tower in (self.network.vision, self.network.text):
            tower.to(pixels_BCHW.device, pixels_BCHW.dtype)
        read = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(pixels_BCHW.device)
        raw: Tensor = self.network(pixels_BCHW, read.input_ids, read.attention_mask)
        return (raw - MEAN) / DEVIATION


def _vision_name(key: str) -> str:
    """The name in transformers of a weight of BLIP's vision tower."""
    for pattern, name in _VISION_NAMES:
        if found := re.fullmatch(pattern, key):
            return found.expand(name)
    raise ValueError(f"{key!r} is no weight of BLIP's vision tower")


def _vision_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    """The vision tower's sizes, read off its weights."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        num_attention_heads=num_heads(width, HEAD_WIDTH),
        patch_size=patch,
        image_size=patch * math.isqrt(state["pos_embed"].shape[1] - 1),
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content

"""OpenCLIP's checkpoints as transformers' CLIPModel: the same network with its weights under other names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from drtune.rewards.loading import filled, num_heads

ABOUT_VIT_H_14 = {"vision_cfg": {"width": 1280, "head_width": 80}, "text_cfg": {"width": 1024, "heads": 16}}
"""What a checkpoint's shapes do not tell, as `model_cfg` of an open_clip_config.json has it."""

_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")


def to_clip_model(state: Mapping[str, Tensor], about: Mapping[str, Any] = ABOUT_VIT_H_14) -> CLIPModel:
    """The CLIPModel in single precision of an OpenCLIP state dict, of a vision transformer.

    The text's embedding is read at the largest token, its end, as in OpenCLIP.

    Args:
        state: the weights by OpenCLIP's names.
        about: `model_cfg` of the checkpoint's open_clip_config.json: how wide the heads are, and which GELU it is.

    Raises:
        ValueError: a weight is missing, unknown or of the wrong shape, or the heads are not as `about` says.
    """
    weights = {name: tensor for key, original in state.items() for name, tensor in _converted(key, original)}
    try:
        config = _config(state, about)
    except KeyError as missing:
        raise ValueError(f"{missing} is missing") from None
    return filled(CLIPModel, config, weights)


def _converted(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One weight of OpenCLIP under transformers' name; queries, keys and values, which it keeps together, as three."""
    if key in _NAMES:
        yield _NAMES[key], tensor
    elif key in _TRANSPOSED:
        yield _TRANSPOSED[key], tensor.T.contiguous()
    elif block := _BLOCK.fullmatch(key):
        tower, index, part, kind = block.groups()
        layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{index}"
        if part == "attn.in_proj":
            for name, third in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}.self_attn.{name}_proj.{kind}", third.contiguous()
        elif part in _IN_BLOCK:
            yield f"{layer}.{_IN_BLOCK[part]}.{kind}", tensor
        else:
            raise ValueError(f"{key!r} is no weight of an OpenCLIP")
    else:
        raise ValueError(f"{key!r} is no weight of an OpenCLIP")


def _config(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> CLIPConfig:
    """The network's sizes, read off its weights."""

    def tower(prefix: str, width: int, head_width: int) -> dict[str, int | str]:
        blocks = {found[2] for key in state if (found := _BLOCK.fullmatch(key)) and (found[1] or "") == prefix}
        return {
            "hidden_size": width,
            "intermediate_size": len(state[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": len(blocks),
            "num_attention_heads": num_heads(width, head_width),
            "hidden_act": "quick_gelu" if about.get("quick_gelu") else "gelu",
        }

    vocabulary, text_width = state["token_embedding.weight"].shape
    vision_width, _, patch, _ = state["visual.conv1.weight"].shape
    patches = len(state["visual.positional_embedding"]) - 1
    text = tower("", text_width, about["text_cfg"]["width"] // about["text_cfg"]["heads"]) | {
        "vocab_size": vocabulary,
        "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": 2,  # transformers' sign for: read at the largest token
    }
    vision = tower("visual.", vision_width, about["vision_cfg"].get("head_width", 64)) | {
        "patch_size": patch,
        "image_size": patch * math.isqrt(patches),
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=state["visual.proj"].shape[1])

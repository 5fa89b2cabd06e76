"""An adapter under the names that kohya's sd-scripts gave it, which ComfyUI, Forge and others read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from torch import Tensor

from drtune.errors import UserError

DOUBLE_BLOCK = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
SINGLE_BLOCK = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
"""FLUX.1's layers as its authors named them, each one or several of diffusers' side by side."""


def unet_to_kohya(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The adapter of a UNet: `unet.<layer>.lora_A.weight` becomes `lora_unet_<layer>.lora_down.weight`, and so on.

    Every layer gets its `alpha`, by which the reader scales it: alpha / rank.
    """
    named: dict[str, Tensor] = convert_state_dict_to_kohya(dict(tensors))
    return named | {name: torch.tensor(alpha) for name in named if name.endswith(".alpha")}


def flux_to_kohya(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The adapter of FLUX.1: layers that its authors have in one are fused, with as many times the rank and alpha.

    Raises:
        UserError: a layer has no place there, or only some of those that are fused have an adapter.
    """
    blocks: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            block, name = _placed(layer.removeprefix("transformer."))
            blocks.setdefault(block, {})[name] = tensors[key], tensors[f"{layer}.lora_B.weight"]
    named: dict[str, Tensor] = {}
    for block, adapters in blocks.items():
        layers = SINGLE_BLOCK if block.startswith("single") else DOUBLE_BLOCK
        for name, parts in layers.items():
            if present := [part for part in parts if part in adapters]:
                if len(present) < len(parts):
                    raise UserError(
                        f"lora.targets: kohya's format has {', '.join(parts)} of {block} in one, and only "
                        f"{', '.join(present)} {'has' if len(present) == 1 else 'have'} an adapter; "
                        "give --format diffusers"
                    )
                named |= _fused(f"lora_unet_{block}_{name}", [adapters.pop(part) for part in parts], alpha)
        if adapters:
            raise UserError(
                f"lora.targets: kohya's format has no {next(iter(adapters))} of {block}; give --format diffusers"
            )
    return named


def _placed(layer: str) -> tuple[str, str]:
    """The block of a layer of FLUX.1 under its authors' name, and the layer's own name in diffusers."""
    match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer)
    if match is None:
        raise UserError(f"lora.targets: kohya's format has no {layer}; give --format diffusers")
    return f"{'single' if match[1] else 'double'}_blocks_{match[2]}", match[3]


def _fused(name: str, adapters: Sequence[tuple[Tensor, Tensor]], alpha: float) -> dict[str, Tensor]:
    """Adapters side by side as one: their outputs laid end to end."""
    downs, ups = zip(*adapters, strict=True)
    return {
        f"{name}.lora_down.weight": torch.cat(downs),
        f"{name}.lora_up.weight": torch.block_diag(*ups),
        f"{name}.alpha": torch.tensor(alpha * len(adapters)),
    }

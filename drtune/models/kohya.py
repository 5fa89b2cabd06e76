"""An adapter under the names that kohya's sd-scripts gave it, which ComfyUI, Forge and others read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from torch import Tensor

from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.models.tensors import to_bytes

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


FLUX_SIDE = 1024
"""Pixels of its images, of which its configuration says nothing."""


class Kind(NamedTuple):
    """What a base is called by those who look for adapters to it."""

    version: str
    """As sd-scripts has it, in `ss_base_model_version`."""
    architecture: str
    """As ModelSpec has it, https://github.com/Stability-AI/ModelSpec; an adapter's is this and `/lora`."""
    implementation: str
    """Whose names the layers have."""
    prediction: str | None
    """`epsilon` or `v`; none for what ModelSpec has no word for: a flow, or a network that gives the picture itself."""


def stable_diffusion(network: Mapping[str, Any], sampler: Mapping[str, Any]) -> Kind:
    """Which Stable Diffusion 1, 2 or XL, from the configurations of its UNet and its scheduler.

    They are files, and those of Stable Diffusion 1.5 are older than some keys, which then have diffusers' default.
    """
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}.get(sampler.get("prediction_type", "epsilon"))
    if network.get("addition_embed_type") == "text_time":
        return Kind("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "diffusers", prediction)
    suffix = "_v" if prediction == "v" else ""
    if not network.get("use_linear_projection"):
        return Kind(f"sd_v1{suffix}", "stable-diffusion-v1", "diffusers", prediction)
    size = "768-v" if prediction == "v" else "512"
    return Kind(f"sd_v2{suffix}", f"stable-diffusion-v2-{size}", "diffusers", prediction)


def flux(network: Mapping[str, Any]) -> Kind:
    """Which FLUX.1, from the configuration of its transformer."""
    name = "flux-1-dev" if network["guidance_embeds"] else "flux-1-schnell"
    return Kind("flux1", name, "https://github.com/black-forest-labs/flux", None)


def metadata_of_kind(kind: Kind, named: Mapping[str, Tensor], title: str, *, width: int, height: int) -> dict[str, str]:
    """What a file of an adapter says of itself: its base as sd-scripts calls it, and what ModelSpec 1.0.1 asks for.

    The hash is that of all tensors as they lie in the file, without its header.
    """
    content = to_bytes(named, {})
    header = 8 + int.from_bytes(content[:8], "little")
    about = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{kind.architecture}/lora",
        "implementation": kind.implementation,
        "title": title,
        "resolution": f"{width}x{height}",
        "hash_sha256": f"0x{sha256_bytes(content[header:])}",
        **({"prediction_type": kind.prediction} if kind.prediction else {}),
    }
    return {"ss_base_model_version": kind.version} | {f"modelspec.{key}": value for key, value in about.items()}


def unet_to_kohya(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter of a UNet: `unet.<layer>.lora_A.weight` becomes `lora_unet_<layer>.lora_down.weight`, and so on.

    Every layer gets its `alpha`, by which a reader scales it, alpha / rank: the rank, for a scale of 1.
    """
    named: dict[str, Tensor] = convert_state_dict_to_kohya(dict(tensors))
    return {name: tensor.float() if name.endswith(".alpha") else tensor for name, tensor in named.items()}


def flux_to_kohya(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter of FLUX.1: layers that its authors have in one are fused, with as many times the rank.

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
                named |= _fused(f"lora_unet_{block}_{name}", [adapters.pop(part) for part in parts])
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


def _fused(name: str, adapters: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Adapters side by side as one: their outputs laid end to end."""
    downs, ups = zip(*adapters, strict=True)
    down = torch.cat(downs)
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": torch.block_diag(*ups),
        f"{name}.alpha": torch.tensor(float(len(down))),
    }

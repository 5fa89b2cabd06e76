"""The adapter: a LoRA on the base's network, put on, taken off for a moment, and saved as diffusers loads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from drtune.config import LoraSection
from drtune.errors import UserError
from drtune.models.base import Base
from drtune.models.tensors import load_tensors, to_bytes


def add_adapter(base: Base, lora: LoraSection, seed: int) -> dict[str, torch.nn.Parameter]:
    """Put a fresh LoRA on the base's frozen network; returns its weights by name, the only ones that train, in fp32.

    Raises:
        UserError: none of the targets is a layer of the network.
    """
    targets = list(lora.targets or base.lora_targets)
    start: bool | str = "gaussian" if lora.init == "gaussian" else True
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, init_lora_weights=start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            base.network.add_adapter(config)
        except ValueError as error:
            raise UserError(f"lora.targets={targets}: {str(error).splitlines()[0]}") from None
    weights = {name: weight for name, weight in base.network.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        weight.data = weight.data.float()
    return weights


@contextmanager
def without_adapter(base: Base) -> Iterator[None]:
    """The base as it was before tuning."""
    base.network.disable_adapters()
    try:
        yield
    finally:
        base.network.enable_adapters()


def save_adapter(base: Base, folder: Path) -> None:
    """Write `folder/ADAPTER_FILE` in diffusers' format, with its scale in the weights."""
    settings = base.network.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, ordered differently in every process
    about = {f"{base.network_name}.{key}": value for key, value in settings.items()}

    def write(tensors: dict[str, Tensor], path: str) -> None:
        Path(path).write_bytes(adapter_bytes(tensors, about))

    layers = {f"{base.network_name}_lora_layers": get_peft_model_state_dict(base.network)}
    base.pipeline_class.save_lora_weights(folder, **layers, save_function=write)


def adapter_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The content of an adapter's file, in which alpha is the rank: the scale, alpha / rank, is in the outer matrices.

    Readers look for alpha in the metadata, in a tensor beside each layer, or nowhere; on a scale of 1 they all agree.
    """
    (network,) = {key.partition(".")[0] for key in about}
    rank = about[f"{network}.r"]
    scale = about[f"{network}.lora_alpha"] / rank
    scaled = {name: tensor * scale if ".lora_B." in name else tensor for name, tensor in tensors.items()}
    settings = json.dumps({**about, f"{network}.lora_alpha": float(rank)}, sort_keys=True)
    # One entry alone: safetensors writes several in an order that chance decides, and equal adapters would differ.
    return to_bytes(scaled, {LORA_ADAPTER_METADATA_KEY: settings})


def load_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a saved adapter and its settings by name, as `adapter_bytes` takes them."""
    tensors, about = load_tensors(path)
    return tensors, json.loads(about[LORA_ADAPTER_METADATA_KEY])

"""The adapter: a LoRA on the base's network, put on, taken off for a moment, and saved as diffusers loads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from drtune.config import LoraSection
from drtune.errors import UserError
from drtune.models.base import Base
from drtune.models.start import Start
from drtune.models.tensors import load_tensors, to_bytes

INNER = re.compile(r"\.lora(_A|_down|\.down)\.")
"""In the name of a layer's inner matrix, whoever wrote it."""
NAME, FILE = "start", "start.safetensors"


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


def add_adapter_from(base: Base, lora: LoraSection, seed: int, start: Start | None) -> dict[str, torch.nn.Parameter]:
    """As `add_adapter`, with what `start` adds to each layer in it.

    Targets that the start has nothing for begin as fresh ones do, with no effect.

    Raises:
        UserError: the start is of another rank, or of layers that are no targets, are not there, or not tuned.
    """
    matrices = _matrices(base, start, lora) if start else {}
    weights = add_adapter(base, lora, seed)
    for layer, (inner, outer) in matrices.items():
        if f"{layer}.lora_A.default.weight" not in weights:
            ends = sorted({re.sub(r".*\.(?=\D)", "", name) for name in matrices})
            raise UserError(
                f"lora.init={lora.init!r}: has an adapter for {layer}, which is none of lora.targets; "
                f"give lora.targets={list(dict.fromkeys(ends))}"
            )
        with torch.no_grad():
            weights[f"{layer}.lora_A.default.weight"].copy_(inner)
            weights[f"{layer}.lora_B.default.weight"].copy_(outer * lora.rank / lora.alpha)
    return weights


def _matrices(base: Base, start: Start, lora: LoraSection) -> dict[str, tuple[Tensor, Tensor]]:
    """The inner and the outer matrix of each layer, whose product is added to its weight; diffusers reads the file.

    The network is without an adapter before and after.
    """
    shown = f"lora.init={lora.init!r}"
    pipeline = base.pipeline
    try:
        with TemporaryDirectory() as folder:
            (Path(folder) / FILE).write_bytes(start.content)
            about = {"unet_config": base.network.config} if base.network_name == "unet" else {}
            state = pipeline.lora_state_dict(folder, weight_name=FILE, use_safetensors=True, **about)
            names = state[0] if isinstance(state, tuple) else state
            if elsewhere := next((name for name in names if not name.startswith(f"{base.network_name}.")), None):
                raise UserError(f"{shown}: holds {elsewhere}, and only the {base.network_name} is tuned; take it out")
            pipeline.load_lora_weights(folder, weight_name=FILE, adapter_name=NAME)
        layers = {
            name: module
            for name, module in base.network.named_modules()
            if isinstance(module, LoraLayer) and NAME in module.lora_A
        }
        found = {
            name: (
                layer.lora_A[NAME].weight.detach().float(),
                layer.lora_B[NAME].weight.detach().float() * layer.scaling[NAME],
            )
            for name, layer in layers.items()
        }
        pipeline.unload_lora_weights()
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:  # as diffusers finds that it does not fit
        reason = next(iter(str(error).splitlines()), "its layers have other sizes")
        raise UserError(f"{shown}: does not fit this {type(pipeline).__name__} ({reason})") from None
    in_file = sum(INNER.search(name) is not None for name in names)
    if len(found) < in_file or not found:
        raise UserError(f"{shown}: {in_file - len(found)} of its {in_file} layers are not in this base; give one of it")
    ranks = {len(inner) for inner, _ in found.values()}
    if ranks != {lora.rank}:
        fix = f"give lora.rank={min(ranks)}" if len(ranks) == 1 else "give one that has the same rank everywhere"
        raise UserError(f"{shown}: is of rank {', '.join(map(str, sorted(ranks)))}, and lora.rank={lora.rank}; {fix}")
    return found


@contextmanager
def without_adapter(base: Base) -> Iterator[None]:
    """The base as it was before tuning."""
    base.network.disable_adapters()
    try:
        yield
    finally:
        base.network.enable_adapters()


def save_adapter(base: Base, folder: Path) -> None:
    """Write the adapter's file into `folder`, in diffusers' format, with its scale in the weights."""
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

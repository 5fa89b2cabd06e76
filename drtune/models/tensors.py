"""Named tensors in one safetensors file, an optimizer's state among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.models.sharding import like


def to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """The content of a safetensors file of tensors and a few words about them."""
    return save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, dict(about))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors and a few words about them, whole or not at all."""
    with replacing(path) as written:
        # Bytes first: a full disk is then an ordinary OSError, and not one of the safetensors library.
        written.write_bytes(to_bytes(tensors, about))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_tensors` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from None


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it: `named` undone."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and counters, named by parameter number and role."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, state in states.items() for key, tensor in state.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took from it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        mine = parameters[int(index)]
        # A moment is sharded as its parameter is; a counter is one number.
        states.setdefault(int(index), {})[key] = like(mine, tensor) if tensor.shape == mine.shape else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

"""Named tensors in one safetensors file, an optimizer's state among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drtune.errors import UserError
from drtune.files.local import replacing

Value = TypeVar("Value")


def to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """The content of a safetensors file of tensors and a few words about them.

    Raises:
        UserError: a number is not finite. No file of such weights is ever written, nor read.
    """
    return save({name: _finite(name, tensor).detach().contiguous() for name, tensor in tensors.items()}, dict(about))


def stream_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, str],
    whole: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> None:
    """Write what `to_bytes` makes, byte for byte, whole or not at all, with one tensor in memory at a time.

    `whole` makes a tensor what is written, on any device, once it is its turn; the turns are those of `in_order`.
    """
    header: dict[str, object] = {"__metadata__": dict(about)} if about else {}
    end = 0
    for name, tensor in in_order(tensors).items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _name_of(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as written, written.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in in_order(tensors).items():
            numbers = _finite(name, whole(tensor)).detach().cpu().contiguous()
            file.write(numbers.flatten().view(torch.uint8).numpy().data)


def in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they lie in a safetensors file: the widest numbers first, which aligns all, then by name."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def _name_of(dtype: torch.dtype) -> str:
    """What safetensors calls a type of numbers."""
    header = save({"": torch.empty(0, dtype=dtype)})[8:]
    name: str = json.loads(header)[""]["dtype"]
    return name


def metadata_of(path: Path) -> dict[str, str]:
    """The few words about the tensors in a safetensors file.

    Raises:
        UserError: the file is damaged.
    """
    with _opened(path) as file:
        words: dict[str, str] = file.metadata() or {}
    return words


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `stream_tensors` wrote.

    Raises:
        UserError: the file is damaged, or a number in it is not finite.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: _finite(f"{path}: {name}", tensor) for name, tensor in tensors.items()}, file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from None


def _finite(name: str, tensor: Tensor) -> Tensor:
    # By the least and the greatest, which takes no second tensor; both are not a number where any is.
    if tensor.is_floating_point() and tensor.numel() and not all(x.isfinite() for x in torch.aminmax(tensor)):
        raise UserError(
            f"{name}: weights that are infinite or not a number; train again with a lower optimizer.learning_rate"
        )
    return tensor


def named(prefix: str, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors whose names begin with `prefix.`, without it: `named` undone."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and counters, named by parameter number and role."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, state in states.items() for key, tensor in state.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took from it."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

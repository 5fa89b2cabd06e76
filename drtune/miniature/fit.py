"""One resumable training loop for every network of the miniature."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from drtune.files import replacing

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def fit(
    name: str,
    network: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    ema_decay: float = 0.0,
) -> None:
    """Train `network` in place for `steps` steps, going on from `folder/name.safetensors` if it is there.

    `loss_of_step(step)` draws all its randomness from `step`, so that a resumed run sees what an uninterrupted one
    would have seen. With `ema_decay` the network ends with the running mean of its weights.
    """
    path = folder / f"{name}.safetensors"
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in network.state_dict().items()} if ema_decay else {}
    start = _restore(path, network, optimizer, average)

    network.train()
    saved_at = time.monotonic()
    progress = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=5.0)
    smooth_loss = None
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _warmup_then_cosine(step, steps)
        loss = loss_of_step(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth_loss = loss.item() if smooth_loss is None else 0.98 * smooth_loss + 0.02 * loss.item()
        progress.set_postfix(loss=f"{smooth_loss:.4f}", refresh=False)
        for key, value in average.items():
            value.lerp_(network.state_dict()[key], 1 - min(ema_decay, step / (step + 20)))
        if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS or step + 1 == steps:
            _save(path, network, optimizer, average, step + 1)
            saved_at = time.monotonic()
    if average:
        network.load_state_dict(average)
    network.eval().requires_grad_(False)


def _warmup_then_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: 100 steps up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int) -> None:
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    with replacing(path) as written:
        save_file({key: value.contiguous() for key, value in tensors.items()}, written, metadata={"step": str(step)})


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Fill all three from the checkpoint; return the step to go on with."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    network.load_state_dict(parts["network"])
    average.update(parts["average"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in parts["optimizer"].items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return step

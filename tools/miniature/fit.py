"""One resumable training loop for every network of the miniature."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from drtune.files.progress import Progress
from drtune.models.tensors import below, load_optimizer_tensors, load_tensors, named, optimizer_tensors, stream_tensors


def fit(
    name: str,
    network: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    ema_decay: float = 0.0,
    seconds_between_checkpoints: float = 60.0,
) -> None:
    """Train `network` in place for `steps` steps, going on from `folder/name.safetensors` if it is there.

    `loss_of_step(step)` draws all its randomness from `step`, so that a resumed run sees what an uninterrupted one
    would have seen. With `ema_decay` the network ends with the running mean of its weights.
    """
    path = folder / f"{name}.safetensors"
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), fused=True)
    average = {key: value.detach().clone() for key, value in network.state_dict().items()} if ema_decay else {}
    start = _restore(path, network, optimizer, average)

    network.train()
    saved_at = time.monotonic()
    smooth_loss = None
    with Progress(name, steps, "step", done=start) as progress:
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _warmup_then_cosine(step, steps)
            loss = loss_of_step(step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            smooth_loss = loss.item() if smooth_loss is None else 0.98 * smooth_loss + 0.02 * loss.item()
            progress.update(loss=f"{smooth_loss:.4f}")
            if average:
                _mix_in(average, network.state_dict(), share=1 - min(ema_decay, step / (step + 20)))
            if time.monotonic() - saved_at > seconds_between_checkpoints or step + 1 == steps:
                _save(path, network, optimizer, average, step + 1)
                saved_at = time.monotonic()
    if average:
        network.load_state_dict(average)
    network.eval().requires_grad_(False)


def _warmup_then_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: 100 steps up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _mix_in(average: dict[str, Tensor], current: dict[str, Tensor], share: float) -> None:
    for key, value in average.items():
        value.lerp_(current[key], share)


def _save(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int
) -> None:
    tensors = (
        named("network", network.state_dict())
        | named("average", average)
        | named("optimizer", optimizer_tensors(optimizer))
    )
    stream_tensors(path, tensors, {"step": str(step)})


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Fill all three from the checkpoint; return the step to go on with."""
    if not path.exists():
        return 0
    tensors, about = load_tensors(path)
    network.load_state_dict(below("network", tensors))
    average.update(below("average", tensors))
    load_optimizer_tensors(optimizer, below("optimizer", tensors))
    return int(about["step"])

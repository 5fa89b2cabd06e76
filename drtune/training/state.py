"""The state of a training run: all that one update hands to the next, and how one update changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drtune.models.tensors import below, load_optimizer_tensors, named, optimizer_tensors


@dataclass(frozen=True)
class TrainState:
    """All that one update hands to the next."""

    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    """Running mean of the weights; empty without EMA."""
    optimizer: torch.optim.Optimizer
    held_out: dict[int, float] = field(default_factory=dict)
    """Mean of the held-out reward after so many updates; 0 is where tuning began."""

    @torch.no_grad()
    def step(self, learning_rate: float, ema_decay: float) -> None:
        """One optimizer step, which uses up the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, average in self.average.items():
            average.lerp_(self.weights[name], 1 - ema_decay)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        return (
            named("weights", self.weights)
            | named("average", self.average)
            | named("optimizer", optimizer_tensors(self.optimizer))
        )

    def make_room(self, kinds: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
        """Give the optimizer the moments and counters among `kinds`, which say what `tensors` shall give, all empty.

        Only an optimizer that has made an update has any.
        """
        self.optimizer.state.clear()  # before as much is made anew
        weights = list(self.weights.values())
        room = {}
        for name, (shape, dtype) in below("optimizer", kinds).items():
            weight = weights[int(name.partition(".")[0])]
            # A moment is sharded as its weight is; a counter is one number.
            alike = shape == weight.shape
            room[name] = (
                torch.empty_like(weight, dtype=dtype)
                if alike
                else torch.empty(shape, dtype=dtype, device=weight.device)
            )
        load_optimizer_tensors(self.optimizer, room)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the weights are those that a run saves: their running mean, where there is one."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    @torch.no_grad()
    def _swap_average(self) -> None:
        for name, average in self.average.items():
            weight = self.weights[name]
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

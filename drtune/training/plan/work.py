"""How often an update runs the network: counted by running the update itself, on pictures of a single number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drtune.config import Config
from drtune.methods.draws import generator_of
from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.models.sampler import Sampler

MOST_UPDATES = 200
"""So many of a run's updates tell enough of all."""


@dataclass(frozen=True)
class Count:
    """Passes of one picture through the network in one update, over the updates of a run."""

    least: int
    mean: float
    most: int

    @classmethod
    def of(cls, counts: list[int]) -> Count:
        """The count over some updates.

        >>> Count.of([10, 12])
        Count(least=10, mean=11.0, most=12)
        """
        return cls(min(counts), sum(counts) / len(counts), max(counts))


class _Counter:
    """A denoiser of one weight that counts its calls; several steps in one forward count as several."""

    def __init__(self) -> None:
        self.weight = torch.ones((), requires_grad=True)
        self.forwards = self.backwards = 0

    def __call__(self, latents_BCHW: Tensor, _timesteps_B: Tensor) -> Tensor:
        times = len(latents_BCHW)
        self.forwards += times
        output = self.weight * latents_BCHW
        if output.requires_grad:
            output.register_hook(lambda _: self._count_backwards(times))
        return output

    def part(self, _rows: slice) -> _Counter:
        """Of one picture there is no part."""
        return self

    def _count_backwards(self, times: int) -> None:
        self.backwards += times


@dataclass(frozen=True)
class _BaseRun:
    """A penalty for which the base runs once more at every trained step, and pulls nowhere."""

    counter: _Counter

    @torch.no_grad()
    def __call__(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        self.counter(latents, timesteps)
        return torch.zeros_like(output)

    def part(self, _rows: slice) -> _BaseRun:
        return self


def drawn_plans(config: Config) -> list[Plan]:
    """The plans that the run itself will draw."""
    steps = range(1, min(config.steps, MOST_UPDATES) + 1)
    return [draw_plan(config.method, config.sampler.steps, generator_of(config.seed, "plan", step)) for step in steps]


def count_work(config: Config, sampler: Sampler, plans: Sequence[Plan]) -> tuple[Count, Count]:
    """Forwards and backwards of each picture in an update."""
    forwards, backwards = [], []
    sweeps = 2 if config.method.weight_rho else 1
    for plan in plans:
        counter = _Counter()
        task = Task(
            counter,
            sampler,
            rewards_of=lambda clean, _rows, **_sides: clean.sum((1, 2, 3)),
            draw_noise=lambda *_key: torch.ones(1, 1, 1, 1),
            compute=config.compute,
            penalty=_BaseRun(counter) if config.base_penalty else None,
            real_BCHW=torch.ones(1, 1, 1, 1) if config.method.pictures else None,
        )
        supervise(task, config.method, plan)
        forwards.append(sweeps * counter.forwards)
        backwards.append(sweeps * counter.backwards)
    return Count.of(forwards), Count.of(backwards)

"""What an update costs, and what becomes of its gradient, as the chain grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.workbench import Workbench, peak_bytes, seconds
from drtune.files.local import write_text
from drtune.methods.plans import Plan
from drtune.methods.supervision import supervise
from science.arms import DRTUNE, STEPS, WAYS

COSTED = (DRTUNE, "full", "DRaFT-4", "AlignProp", "ReFL", "DRaFT-1", "DRaFT-LV")
"""Ways whose updates are measured."""
BOTH_KINDS = ("symmetry", "preference")
"""A low-level reward and the preference, whose gradients are looked at."""
CHAINS = (6, 12, 25, 50)
"""T, where costs and gradients are held against it."""
REPEATS = 4
"""Updates that are timed."""
BATCHES = 6
"""Whose gradients are taken; even."""
ALPHAS = (0.0, 0.5, 1.0)
KEEPING = "graphs kept"
"""Every trained step's graph is kept until the backward pass, as plain autograd does."""


class Measurement:
    """Something that is measured once and kept with what it was measured for."""

    @property
    def name(self) -> str:
        """Of its file."""
        raise NotImplementedError

    def measure(self) -> dict[str, Any]:
        """What is found."""
        raise NotImplementedError

    def run(self, out: Path) -> None:
        """Write `out/NAME.json`."""
        write_text(out / f"{self.name}.json", json.dumps({"what": vars(self), "found": self.measure()}, indent=1))

    def is_done(self, out: Path) -> bool:
        """Whether there is a record of this very measurement."""
        file = out / f"{self.name}.json"
        return file.exists() and json.loads(file.read_text(encoding="utf-8"))["what"] == vars(self)

    def found(self, out: Path) -> dict[str, Any]:
        """What its record says."""
        found: dict[str, Any] = json.loads((out / f"{self.name}.json").read_text(encoding="utf-8"))["found"]
        return found


@dataclass(frozen=True)
class UpdateCosts(Measurement):
    """Seconds and memory of an update by every method at one length of the chain."""

    steps: int
    """T."""
    repeats: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"updates_T={self.steps}"

    def measure(self) -> dict[str, Any]:
        """For each way its seconds, and its peak above what stands, in bytes."""
        ways = {way: self._bench(way, settings) for way, settings in self._ways().items()}
        numbers = {way: count(1) for way in ways}  # each update draws its own plan
        runs = {way: partial(_update, bench, numbers[way]) for way, bench in ways.items()}
        times = seconds(runs, self.repeats)
        return {way: {"seconds": times[way], "bytes": peak_bytes(ways[way].update)} for way in ways}

    def _ways(self) -> dict[str, tuple[str, ...]]:
        ways = {way: WAYS[way].settings for way in COSTED}
        for way in (DRTUNE, "full"):
            ways[f"{way}, {KEEPING}"] = (*WAYS[way].settings, f"compute.keep_graphs={self.steps}")
        if self.steps == STEPS:
            for way, alpha in ((DRTUNE, 1), ("full", 0)):
                ways[f"{way}, alpha = {alpha}"] = (*WAYS[way].settings, f"method.alpha={alpha}")
        return ways

    def _bench(self, way: str, settings: tuple[str, ...]) -> Workbench:
        depth = [f"method.trained_steps={self.steps}"] if way == "AlignProp" else []
        return Workbench(["rewards={symmetry: 1.0}", f"sampler.steps={self.steps}", *settings, *depth])


@dataclass(frozen=True)
class Gradients(Measurement):
    """The gradient when all steps train, by how much of it passes through the network's input."""

    reward: str
    steps: int
    batches: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"gradients_{self.reward}_T={self.steps}"

    def measure(self) -> dict[str, Any]:
        """For each alpha the norm of every batch, and the cosine of every two batches, none of them taken twice."""
        found: dict[float, list[Tensor]] = {alpha: [] for alpha in ALPHAS}
        for batch in range(self.batches):
            overrides = [f"rewards={{{self.reward}: 1.0}}", f"sampler.steps={self.steps}", "method.name=full"]
            bench = Workbench(overrides, seed=batch)
            for alpha in ALPHAS:
                found[alpha].append(_gradient(bench, alpha))
        return {
            str(alpha): {
                "norm": [float(gradient.norm()) for gradient in gradients],
                "agreement": [_cosine(*pair) for pair in zip(gradients[::2], gradients[1::2], strict=True)],
            }
            for alpha, gradients in found.items()
        }


MEASUREMENTS: list[Measurement] = [
    measurement
    for steps in sorted(CHAINS, reverse=True)
    for measurement in (UpdateCosts(steps, REPEATS), *(Gradients(reward, steps, BATCHES) for reward in BOTH_KINDS))
]
"""All, the long ones first."""


def _update(bench: Workbench, numbers: Iterator[int]) -> None:
    bench.update(next(numbers))


def _gradient(bench: Workbench, alpha: float) -> Tensor:
    """The gradient with respect to the weights, of the bench's batch, flat."""
    every = tuple(range(len(bench.sampler.steps)))
    supervise(bench.task(), bench.config.method, Plan(stop=every[-1], trained=every, alpha=alpha))
    gradient = torch.cat([weight.grad.flatten() for weight in bench.weights.values() if weight.grad is not None])
    bench.optimizer.zero_grad()
    return gradient


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))

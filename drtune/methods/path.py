"""The way that the gradient takes back through the sampling chain, as numbers: legs between levels of noise.

Each leg is a weighted sum of the network's outputs along it, and of the latents that the network saw there,

    x_end = sum of a_i * x_i + sum of b_i * out_i

and legs follow each other to the clean end. A step of the sampler is a leg with one output, and so is a leap. Going
back over a leg, the sweep owes output i b_i times the adjoint at its end, and where it starts a of the start times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from drtune.config import Weighting
from drtune.methods.plans import Plan
from drtune.models.sampler import Sampler


@dataclass(frozen=True)
class Leg:
    """From the latents before step `start` to those before the next leg's start, or to the clean ones."""

    start: int
    latents: Mapping[int, float]
    """a by step; what is not the start's counts as a constant."""
    outputs: Mapping[int, float]
    """b by step."""

    @property
    def a(self) -> float:
        """How much of the adjoint is passed to where the leg starts."""
        return self.latents[self.start]


def taken(sampler: Sampler, index: int, plan: Plan) -> tuple[float, float]:
    """The weights of latents and output: of the jump where sampling stops early, else of the sampler's own step."""
    step = sampler.steps[index]
    return step.jump if jumps(sampler, index, plan) else step.move


def jumps(sampler: Sampler, index: int, plan: Plan) -> bool:
    """Whether the clean latents are predicted from this step."""
    return index == plan.stop < len(sampler.steps) - 1


def path_of(sampler: Sampler, plan: Plan) -> list[Leg]:
    """The legs, noisiest first: the leaps of a plan that has some, else each step that runs."""
    if plan.leaps:
        ends = [*(leap[0] for leap in plan.leaps[1:]), None]
        return [Leg(leap[0], *sampler.leap(leap, end)) for leap, end in zip(plan.leaps, ends, strict=True)]
    moves = {index: taken(sampler, index, plan) for index in range(plan.start, plan.stop + 1)}
    return [Leg(index, {index: a}, {index: b}) for index, (a, b) in moves.items()]


def gradient_path(sampler: Sampler, plan: Plan, weighting: Weighting = "chain") -> list[Leg]:
    """The legs from the first trained output on, with the trained outputs alone and what the method owes them."""
    path = _weighed(sampler, path_of(sampler, plan), weighting)
    gains = plan.gain_of
    # A leap's trained outputs stand for that leap, trained steps for the chain.
    groups = [[leg] for leg in path] if plan.leaps else [path]
    legs = []
    for group in groups:
        factor = _stand_in(group, plan)
        for leg in group:
            owed = {index: factor * gains[index] * b for index, b in leg.outputs.items() if index in gains}
            legs.append(Leg(leg.start, leg.latents, owed))
    return legs[next(place for place, leg in enumerate(legs) if leg.outputs) :]


def _stand_in(legs: Sequence[Leg], plan: Plan) -> float:
    """FlowBP's factor on trained outputs (arXiv 2606.11075): at `rescale` 1 they have the weight of all outputs."""
    sizes = {index: abs(c) for index, c in _chain_weights(legs).items()}
    trained = sum(size for index, size in sizes.items() if index in plan.trained)
    return 1 + plan.rescale * (sum(sizes.values()) / trained - 1) if plan.rescale and trained else 1.0


def _chain_weights(legs: Sequence[Leg]) -> dict[int, float]:
    """D x_end / d out of each output by the linear path alone, with x_end at the end of the last leg."""
    return {
        index: b * prod(later.a for later in legs[place + 1 :])
        for place, leg in enumerate(legs)
        for index, b in leg.outputs.items()
    }


def _weighed(sampler: Sampler, legs: list[Leg], weighting: Weighting) -> list[Leg]:
    """The legs, with weights of the outputs that are chosen: in all as large as the chain's, and of their signs."""
    if weighting == "chain":
        return legs
    chain = _chain_weights(legs)
    shares = {index: sampler.steps[index].seen_signal if weighting == "signal" else 1.0 for index in chain}
    size = sum(abs(c) for c in chain.values()) / sum(shares.values())
    factors = {index: size * shares[index] / abs(c) if c else 0.0 for index, c in chain.items()}
    return [Leg(leg.start, leg.latents, {i: factors[i] * b for i, b in leg.outputs.items()}) for leg in legs]


class Misses:
    """How far the leaps miss the real latents, noted while those are rolled out."""

    def __init__(self, path: Sequence[Leg], tau: float) -> None:
        self.path, self.tau = path, tau
        self.landed: list[Tensor | float] = [0.0] * len(path)
        self.missed: list[Tensor] = []

    def note(self, index: int, latents: Tensor, output: Tensor) -> None:
        """Step `index` runs on `latents`, and the network says `output`."""
        for place, leg in enumerate(self.path):
            if place and index == leg.start:
                self._miss(place - 1, latents)
            if index in leg.outputs:
                seen = leg.latents.get(index, 0.0) * latents + leg.outputs[index] * output
                self.landed[place] = self.landed[place] + seen

    def _miss(self, place: int, real: Tensor) -> None:
        self.missed.append((self.landed[place] - real).abs().flatten(1).mean(1))

    def weights(self, clean_BCHW: Tensor) -> Tensor:
        """What each picture (B,) counts: 1 / the sum of all misses, each of at least tau (LeapAlign, section 3)."""
        self._miss(len(self.path) - 1, clean_BCHW)
        return 1 / torch.stack(self.missed).clamp(min=self.tau).sum(0)

"""What several trainings come to that differ in nothing but their seed."""

from __future__ import annotations

from typing import Literal

from drtune.contracts.base import Contract

MIN_SEEDS = 3
"""On fewer, nothing is said of other seeds: with two, 95 % intervals hold the truth in 88 % where seeds differ as much
as prompts do (docs/evaluation.md)."""


class SeedRun(Contract):
    """One of the trainings: its seed, its weights, and the evaluation of them.

    >>> SeedRun(seed=0, weights_sha256="5d1c...", report_sha256="5e0f...")
    """

    seed: int
    weights_sha256: str
    report_sha256: str
    """Digest of the report's manifest.json."""


class SeedGain(Contract):
    """How much one reward, or capability, gained over the base, by seed and over all of them.

    >>> SeedGain(measure="symmetry", num_prompts=192, by_seed=(0.24, 0.19, 0.22), gain=0.217, low=0.15, high=0.28,
    ...          deviation=0.025)
    """

    measure: str
    """A reward's name; or `capability`, all of it or in a category as in `capability counting`: the share of
    compositional prompts whose picture is right."""
    num_prompts: int
    by_seed: tuple[float, ...]
    """Mean of candidate minus base over the prompts, in the order of the runs."""
    gain: float
    """Mean over the seeds."""
    low: float | None
    """Ends of its 95 % interval over prompts and seeds; None on fewer than MIN_SEEDS or MIN_PROMPTS."""
    high: float | None
    deviation: float
    """Standard deviation of `by_seed`, by the number of seeds less one."""


class SeedsResult(Contract):
    """The same training with several seeds, each held against the same base on the same prompts from the same noise.

    >>> SeedsResult(runs=(SeedRun(...), SeedRun(...), SeedRun(...)), gains=(SeedGain(...),))
    """

    kind: Literal["SeedsResult/1"] = "SeedsResult/1"
    runs: tuple[SeedRun, ...]
    """In the order in which they were named before they were trained."""
    gains: tuple[SeedGain, ...]
    """Of every reward, those that were tuned on first; then of capability, where it was measured."""

    def gain(self, measure: str) -> SeedGain | None:
        """That measure's, if it was measured."""
        return next((gain for gain in self.gains if gain.measure == measure), None)

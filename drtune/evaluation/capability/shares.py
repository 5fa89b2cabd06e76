"""Two shares of the same prompts, and what can be said of their difference; the gate knows this: it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from drtune.contracts import MIN_PROMPTS, CapabilityScore
from drtune.evaluation.statistics import paired_shares


def score_of(category: str | None, num_prompts: int, *, base: float, gained: int, lost: int) -> CapabilityScore:
    """The comparison on so many prompts, of which the base got the share `base` right."""
    difference = (gained - lost) / num_prompts
    low, high = (None, None) if num_prompts < MIN_PROMPTS else paired_shares(gained, lost, num_prompts)
    return CapabilityScore(
        category=category,
        num_prompts=num_prompts,
        base=base,
        candidate=base + difference,
        gained=gained,
        lost=lost,
        difference=difference,
        low=low,
        high=high,
    )


def pooled(scores: Sequence[CapabilityScore]) -> CapabilityScore:
    """The comparison on the prompts of several categories together."""
    count = sum(score.num_prompts for score in scores)
    return score_of(
        None,
        count,
        base=sum(score.num_prompts * score.base for score in scores) / count,
        gained=sum(score.gained for score in scores),
        lost=sum(score.lost for score in scores),
    )

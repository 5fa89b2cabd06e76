"""What votes say: win rates with their intervals, and how well raters agree with each other and with themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drtune.evaluation.statistics import wilson

RESAMPLES = 4000
"""Of the bootstrap: an end of a 95 % interval rests on a hundred of them."""
_SEED = 0


@dataclass(frozen=True)
class Judgement:
    """One vote with the blinding taken off."""

    rater: str
    prompt: str
    left: str
    right: str
    wins_left: float
    """1: the left picture is better, 0: the right one, 0.5: a tie."""
    question: str
    """Id of the pair; that of the pair that it repeats, for a repeat."""
    repeat: bool
    grades: tuple[int, int] | None = None
    """Of the left picture and of the right one, where grades were asked for."""

    def wins(self, contestant: str) -> float:
        """1, 0.5 or 0 for the contestant, who is one of the two."""
        return self.wins_left if contestant == self.left else 1 - self.wins_left


class Interval(NamedTuple):
    """An estimate between its bounds."""

    value: float
    low: float
    high: float


def win_rate(prompts: Sequence[str], wins: Sequence[float]) -> Interval:
    """Share of votes won, with a 95 % interval that is never narrower than if each prompt were one single vote.

    Votes on one prompt go together, and those of one rater do so from prompt to prompt; more raters do not make more
    prompts. So the interval is the wider, at either end, of two:

    - the percentile bootstrap that draws prompts with all their votes (Field and Welsh 2007, "Bootstrapping clustered
      data"), which has no width when all votes agree;
    - Wilson's (1927, "Probable inference, the law of succession, and statistical inference") for as many votes as there
      are prompts, which has.

    The resamples hang on the number of prompts alone, so more wins never lower an end. What other raters than these
    would say, the interval does not know.

    Args:
        prompts: of each vote, shape (N,), N at least 1.
        wins: 1, 0.5 for a tie, or 0; shape (N,).
    """
    names = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    index_N = np.array([names[prompt] for prompt in prompts])
    wins_P = np.bincount(index_N, weights=np.asarray(wins, dtype=np.float64))
    votes_P = np.bincount(index_N).astype(np.float64)
    counts_RP = resampled(len(names))
    rates_R = counts_RP @ wins_P / (counts_RP @ votes_P)
    low, high = percentiles(rates_R)
    value = float(wins_P.sum() / votes_P.sum())
    wilson_low, wilson_high = wilson(value, len(names))
    return Interval(value, float(min(low, wilson_low)), float(max(high, wilson_high)))


@lru_cache(maxsize=4)  # most raters judge the same number of prompts
def resampled(num_prompts: int) -> NDArray[np.float64]:
    """How often each prompt is drawn in each of the resamples, shape (RESAMPLES, num_prompts)."""
    chances = np.full(num_prompts, 1 / num_prompts)
    counts_RP = np.random.default_rng(_SEED).multinomial(num_prompts, chances, size=RESAMPLES).astype(np.float64)
    counts_RP.flags.writeable = False  # it is shared
    return counts_RP


def percentiles(values_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two ends of the central 95 % of resampled values, along the first dimension."""
    return np.quantile(values_R, [0.025, 0.975], axis=0)


def self_consistency(judgements: Iterable[Judgement]) -> tuple[int, float | None]:
    """How many repeats were answered, and the share of them on which the same contestant won, or neither, as before."""
    judgements = list(judgements)
    first = {(vote.rater, vote.question): vote for vote in judgements if not vote.repeat}
    same = [
        vote.wins(vote.left) == first[vote.rater, vote.question].wins(vote.left) for vote in judgements if vote.repeat
    ]
    return len(same), sum(same) / len(same) if same else None


def agreement(judgements: Iterable[Judgement]) -> tuple[float | None, float | None]:
    """How often two raters answer a question alike, and Krippendorff's alpha; (None, None) if no two answered one.

    An answer is the side, 1 for left, 0 for right, 0.5 for a tie, which is half way (the alpha of interval data). Sides
    were drawn by lot, so chance favours neither, however good one contestant is. Repeats do not count.
    """
    answers: dict[Hashable, list[float]] = defaultdict(list)
    for vote in judgements:
        if not vote.repeat:
            answers[vote.question].append(vote.wins_left)
    units = [given for given in answers.values() if len(given) > 1]
    if not units:
        return None, None
    alike = sum(one == other for given in units for one, other in permutations(given, 2))
    return alike / sum(len(given) * (len(given) - 1) for given in units), krippendorff_alpha(units)


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Agreement beyond chance among any number of raters, any of whom may be missing (interval data).

    1 minus observed over expected disagreement, from the coincidences of values within the units (Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability"). None if all values are equal: then there is no chance to go beyond.

    Args:
        units: the values that each unit was given; those with fewer than two do not count.
    """
    units = [unit for unit in units if len(unit) > 1]
    total = sum(map(len, units))
    values = Counter(value for unit in units for value in unit)
    expected = sum(values[one] * values[other] * (one - other) ** 2 for one, other in permutations(values, 2))
    if expected == 0:
        return None
    observed = sum(sum((one - other) ** 2 for one, other in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    return float(1 - (total - 1) * observed / expected)

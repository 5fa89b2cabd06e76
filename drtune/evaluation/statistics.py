"""What can be said of scores on a sample of prompts: means with intervals, paired comparisons, many tests at once.

Everything random hangs on a fixed seed and on the number of prompts alone. So a candidate that is better on every
prompt never has a lower interval, and all measures of one comparison are resampled alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 4000
"""Of the bootstrap: an end of a 95 % interval rests on a hundred of them."""
FLIPS = 9999
"""Of the permutation test: p-values are multiples of one in ten thousand."""
Z_95 = 1.959964
"""The normal distribution's 97.5 % point."""
_AT_ONCE = 1 << 18
"""Numbers that are held at a time: memory does not grow with the number of prompts."""
_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """M measures of candidate against opponent on the same N prompts: arrays (M,)."""

    gain: Floats
    """Mean of candidate minus opponent."""
    gain_low: Floats
    gain_high: Floats
    effect: Floats
    """Gain in standard deviations of the opponent's scores (Glass 1976): 0 where neither varies."""
    p_value: Floats
    """Two-sided, of one comparison by itself."""
    win_rate: Floats
    """Share of prompts on which the candidate is higher; a tie counts one half."""
    win_low: Floats
    win_high: Floats


def compare_paired(opponent_NM: ArrayLike, candidate_NM: ArrayLike) -> Paired:
    """Gains and win rates of the candidate with 95 % intervals, effect sizes and p-values.

    Args:
        opponent_NM: scores (N, M) of N prompts by M measures, finite.
        candidate_NM: scores of the candidate for the same prompts in the same order.

    Raises:
        ValueError: no prompts, shapes that differ, or a score that is not finite.
    """
    opponent, candidate = _checked(opponent_NM, "opponent"), _checked(candidate_NM, "candidate")
    if opponent.shape != candidate.shape:
        raise ValueError(f"scores of opponent {opponent.shape} and candidate {candidate.shape} are not of one shape")
    gains = candidate - opponent
    gain = gains.mean(axis=0)
    gain_low, gain_high = bootstrap(gains)
    win_rate = ((np.sign(gains) + 1) / 2).mean(axis=0)
    win_low, win_high = wilson(win_rate, len(gains))
    deviation = opponent.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(gain == 0, 0.0, gain / deviation)
    return Paired(gain, gain_low, gain_high, effect, sign_flip_test(gains), win_rate, win_low, win_high)


def bootstrap(values_NM: ArrayLike) -> tuple[Floats, Floats]:
    """Ends (M,) of the 95 % percentile bootstrap interval of the means of (N, M) values.

    Prompts are resampled with replacement (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).
    """
    values = _checked(values_NM, "sample")
    count = len(values)
    means = []
    for rows, generator in _chunks(RESAMPLES, count):
        places = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times_drawn = np.bincount(places.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(times_drawn @ values / count)
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    return low, high


def sign_flip_test(gains_NM: ArrayLike) -> Floats:
    """Two-sided p-values (M,) of the paired permutation test.

    Under "no difference" a gain is as likely as its negative (Edgington and Onghena 2007, "Randomization Tests",
    chapter 5); the signs that were observed count as one of the permutations.
    """
    gains = _checked(gains_NM, "sample")
    observed = np.abs(gains.mean(axis=0))
    tolerance = 1e-12 * np.abs(gains).max(axis=0)  # sums in another order differ in their last bits
    as_far = np.zeros(gains.shape[1])
    for rows, generator in _chunks(FLIPS, len(gains)):
        signs = 1.0 - 2.0 * generator.integers(2, size=(rows, len(gains)))
        as_far += (np.abs(signs @ gains) / len(gains) >= observed - tolerance).sum(axis=0)
    return (1 + as_far) / (1 + FLIPS)


def wilson(rate: ArrayLike, count: int) -> tuple[Floats, Floats]:
    """Ends of the 95 % score interval of a rate among `count` (Wilson 1927).

    Unlike a bootstrap it is not empty when all prompts agree. Ties that count one half make it a little too wide.
    """
    rate = np.asarray(rate, dtype=np.float64)
    shrink = 1 + Z_95**2 / count
    centre = (rate + Z_95**2 / (2 * count)) / shrink
    half = Z_95 / shrink * np.sqrt(rate * (1 - rate) / count + Z_95**2 / (4 * count**2))
    return np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of tests, corrected so that the chance of any false finding stays below the level.

    Holm 1979, "A simple sequentially rejective multiple test procedure". It needs no independence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _checked(values_NM: ArrayLike, side: str) -> Floats:
    values = np.asarray(values_NM, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"scores of the {side} are {values.shape}: wanted a row for each of one or more prompts")
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(f"{bad} of {values.size} scores of the {side} are not finite")
    return values


def _chunks(total: int, width: int) -> Iterator[tuple[int, np.random.Generator]]:
    """How many rows of that width to draw next, until there are `total`, and the generator to draw them with."""
    generator = np.random.default_rng(_SEED)
    at_once = max(1, _AT_ONCE // width)
    for done in range(0, math.ceil(total / at_once)):
        yield min(at_once, total - done * at_once), generator

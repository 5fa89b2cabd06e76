"""What can be said of scores on a sample of prompts: means with intervals, paired comparisons, many tests at once.

Nothing hangs on chance but the flips of a permutation test, which come of a fixed seed and the number of prompts alone.
`python -m benchmarks.coverage` tells how often the intervals hold the truth (docs/evaluation.md has its table).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drtune.contracts import MIN_PROMPTS

FLIPS = 9999
"""Of the permutation test on many prompts."""
FEW = 14
"""Up to so many prompts there are fewer flips in all than FLIPS, and each is tried once."""
TAIL = 3.18
"""A sum of flipped gains lies beyond a point at most so many times as often as a normal number of its deviation does
(Bentkus and Dzindzalieva 2015, "A tight Gaussian bound for weighted sums of Rademacher random variables")."""
Z_95 = 1.959964
"""The normal distribution's 97.5 % point."""
_AT_ONCE = 1 << 18
"""Numbers that are held at a time: memory does not grow with the number of prompts."""
_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """M measures of candidate against opponent on the same N prompts: arrays (M,).

    What is said of chance is None where N is less than MIN_PROMPTS.
    """

    gain: Floats
    """Mean of candidate minus opponent."""
    win_rate: Floats
    """Share of prompts on which the candidate is higher; a tie counts one half."""
    gain_low: Floats | None = None
    gain_high: Floats | None = None
    effect: Floats | None = None
    """Gain in standard deviations of the opponent's scores (Glass 1976): 0 where neither varies."""
    p_value: Floats | None = None
    """Two-sided, of one comparison by itself."""
    win_low: Floats | None = None
    win_high: Floats | None = None


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
    gain, win_rate = gains.mean(axis=0), ((np.sign(gains) + 1) / 2).mean(axis=0)
    if len(gains) < MIN_PROMPTS:
        return Paired(gain, win_rate)
    deviation = opponent.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(gain == 0, 0.0, gain / deviation)
    return Paired(gain, win_rate, *mean_interval(gains), effect, sign_flip_test(gains), *wilson(win_rate, len(gains)))


def mean_interval(values_NM: ArrayLike) -> tuple[Floats, Floats]:
    """Ends (M,) of the 95 % interval of the means of (N, M) values, which may be skewed.

    Student's interval after the cubic transformation that takes the skewness off Student's t (Hall 1992, "On the
    removal of skewness by transformation", Journal of the Royal Statistical Society B 54). A small sample shows less
    skewness than there is, so it is G1 that is taken off, which is unbiased for normal values (Joanes and Gill 1998,
    "Comparing measures of sample skewness and kurtosis"). It covers as often as a studentised bootstrap, without its
    resamples, and is finite where a resample has no deviation to divide by. What is added to every value is added to
    both ends. But one value raised far above the others may lower the low end: the mean is higher, and less sure
    (docs/evaluation.md).

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    values = _checked(values_NM, "sample")
    count, mean = len(values), values.mean(axis=0)
    if count < 2:
        raise ValueError("an interval needs two values or more")
    deviation = values.std(axis=0)
    standard = np.divide(values - mean, deviation, out=np.zeros_like(values), where=deviation > 0)
    unbiased = math.sqrt(count * (count - 1)) / max(count - 2, 1)
    skew = unbiased * (standard**3).mean(axis=0) / math.sqrt(count)
    error = deviation / math.sqrt(count - 1)
    bound = _student(count - 1)
    return mean - error * _with_skew(bound, skew), mean - error * _with_skew(-bound, skew)


def _with_skew(t: float, skew_M: Floats) -> Floats:
    """Where Student's t of skewed values lies as often as `t` does of normal ones: Hall's g inverted.

    `skew_M` is the skewness of the values over the root of their number.
    """
    tiny = np.abs(skew_M) < 1e-6
    skew = np.where(tiny, 1.0, skew_M)
    return np.where(tiny, t, 3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1))


@lru_cache(maxsize=1024)
def _student(freedom: float) -> float:
    """The 97.5 % point of Student's t, of one degree of freedom or more, which need not be whole; to five digits.

    Where t is the root of the degrees times the tangent of an angle, its density is a power of the angle's cosine.
    """
    angles = np.linspace(0.0, min(math.pi / 2, 12 / math.sqrt(freedom)), 4001)  # beyond a t of 12 there is nothing
    densities = np.cos(angles) ** (freedom - 1)
    masses = np.cumsum(densities[1:] + densities[:-1])
    return math.sqrt(freedom) * math.tan(np.interp(0.95, masses / masses[-1], angles[1:]))


def crossed_interval(values_SP: ArrayLike) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of values by S seeds and P prompts, over both.

    Effects of seeds and prompts are random and crossed, one value a cell: the variance of the mean is
    (MS_seeds + MS_prompts - MS_rest) / (S * P), no less than that of either alone, and Student's t has the degrees of
    freedom by which Satterthwaite (1946, "An approximate distribution of estimates of variance components", Biometrics
    Bulletin 2) fits such a sum.

    Raises:
        ValueError: fewer than two seeds or prompts, or a value that is not finite.
    """
    values = _checked(values_SP, "seeds")
    seeds, prompts = values.shape
    if min(seeds, prompts) < 2:
        raise ValueError("an interval over seeds and prompts needs two of each or more")
    mean, by_seed, by_prompt = float(values.mean()), values.mean(axis=1), values.mean(axis=0)
    rest = float(((values - by_seed[:, None] - by_prompt + mean) ** 2).sum()) / ((seeds - 1) * (prompts - 1))
    of_seeds, of_prompts = prompts * float(by_seed.var(ddof=1)), seeds * float(by_prompt.var(ddof=1))
    total = max(of_seeds + of_prompts - rest, of_seeds, of_prompts)
    if total == 0:
        return mean, mean
    parts = of_seeds**2 / (seeds - 1) + of_prompts**2 / (prompts - 1) + rest**2 / ((seeds - 1) * (prompts - 1))
    half = _student(max(total**2 / parts, seeds - 1)) * math.sqrt(total / (seeds * prompts))
    return mean - half, mean + half


def pseudo_values(means_N: ArrayLike) -> Floats:
    """Of the mean over all pairs with each of N prompts, values (N,) that count as independent, with the same mean.

    A mean over pairs is a U-statistic. Each prompt stands in the means of all others too, so its own shows only half of
    what it moves; the jackknife's pseudo-values show the whole (Arvesen 1969, "Jackknifing U-statistics").
    """
    means: Floats = np.asarray(means_N, dtype=np.float64)
    count, middle = len(means), float(means.mean())
    return middle + 2 * (count - 1) / max(count - 2, 1) * (means - middle)


def sign_flip_test(gains_NM: ArrayLike) -> Floats:
    """Two-sided p-values (M,) of the paired permutation test.

    Under "no difference" a gain is as likely as its negative (Edgington and Onghena 2007, "Randomization Tests",
    chapter 5). Of few prompts all flips are tried, so that p is exact. Of more, FLIPS are drawn, and the signs that
    were observed count as one of them. Where none of them goes as far, p is a bound by the normal tail (TAIL): cut off
    at 1 in 10,000, no finding would outlive Holm's correction in a table of 500.
    """
    gains = _checked(gains_NM, "sample")
    count, width = gains.shape
    observed = np.abs(gains.sum(axis=0))
    tolerance = 1e-12 * count * np.abs(gains).max(axis=0)  # sums in another order differ in their last bits
    if count <= FEW:
        flips = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1  # never of the last: +- is alike
        signs = 1.0 - 2.0 * flips
        exact: Floats = (np.abs(signs @ gains) >= observed - tolerance).mean(axis=0)
        return exact
    as_far = np.zeros(width)
    generator, at_once = np.random.default_rng(_SEED), max(1, _AT_ONCE // count)
    for done in range(0, FLIPS, at_once):
        signs = 1.0 - 2.0 * generator.integers(2, size=(min(at_once, FLIPS - done), count))
        as_far += (np.abs(signs @ gains) >= observed - tolerance).sum(axis=0)
    counted = (1 + as_far) / (1 + FLIPS)
    norm = np.sqrt((gains**2).sum(axis=0))
    deviations = np.divide(observed, norm, out=np.zeros(width), where=norm > 0)
    bound = TAIL * np.array([math.erfc(far / math.sqrt(2)) for far in deviations])
    return np.where(as_far > 0, counted, np.minimum(counted, bound))


def wilson(rate: ArrayLike, count: int) -> tuple[Floats, Floats]:
    """Ends of the 95 % score interval of a rate among `count` (Wilson 1927).

    Unlike a bootstrap it is not empty when all prompts agree. Ties that count one half make it a little too wide.
    """
    rate = np.asarray(rate, dtype=np.float64)
    shrink = 1 + Z_95**2 / count
    centre = (rate + Z_95**2 / (2 * count)) / shrink
    half = Z_95 / shrink * np.sqrt(rate * (1 - rate) / count + Z_95**2 / (4 * count**2))
    return np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def paired_shares(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Ends of the 95 % interval of the difference of two shares of the same `count` prompts.

    The adjusted Wald interval of Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37): as if one prompt
    more had been gained and one more lost. So it is not empty where all prompts agree.

    Args:
        gained: prompts that the second alone has.
        lost: prompts that the first alone has.
        count: all prompts.
    """
    size = count + 2
    more, less = (gained + 1) / size, (lost + 1) / size
    half = Z_95 * math.sqrt((more + less - (more - less) ** 2) / size)
    return max(-1.0, more - less - half), min(1.0, more - less + half)


def crossed_shares(values_SP: ArrayLike) -> tuple[float, float]:
    """Ends of the 95 % interval, over seeds and prompts, of the difference of two shares of S seeds on P prompts.

    `crossed_interval`, made as little empty as `paired_shares` is, and in the same way: as if each seed had gained one
    prompt more and lost one more. Where all agree it would else say that there is no doubt.

    Args:
        values_SP: 1 where the second alone has the prompt, -1 where the first alone has it, else 0.

    Raises:
        ValueError: as `crossed_interval`.
    """
    values = _checked(values_SP, "seeds")
    more = np.ones((len(values), 1))
    low, high = crossed_interval(np.hstack([values, more, -more]))
    return max(-1.0, low), min(1.0, high)


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

"""What can be said from a few seeds: estimates with their intervals, and the best reward within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on that side of 0, else 0: undecided."""
        return (self.low > 0) - (self.high < 0)


def estimate(values: Sequence[float] | Floats) -> Estimate:
    """Mean and Student's interval (Student 1908) of independent values, two at least.

    >>> str(estimate([0.1, 0.2, 0.3]))
    '+0.200 [-0.048, +0.448]'
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(student.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def best_within(path: Floats, budgets: Sequence[float]) -> Floats:
    """The highest y that a training reaches at an x within each budget, its start at (0, 0) included.

    Args:
        path: (N, 2), its points x, y in their order; between two points it is taken as straight.
        budgets: (B,), not below 0.

    >>> best_within(np.array([[0, 0], [2, 4]]), [1, 5])
    array([2., 4.])
    """
    within = np.asarray(budgets, dtype=float)
    best = np.zeros_like(within)
    for one, other in pairwise(path):
        (near, near_y), (far, far_y) = sorted([tuple(one), tuple(other)])
        reached = np.interp(within, [near, far], [near_y, far_y]) if far > near else max(near_y, far_y)
        best = np.where(within >= near, np.maximum(best, np.maximum(near_y, reached)), best)
    return best


def highest_mean(values: Floats) -> Floats:
    """Of values (R, S, ...) by rate and seed, those (S, ...) of the rate whose mean over seeds is highest.

    >>> highest_mean(np.array([[1.0, 4.0], [3.0, 3.0]]))
    array([3., 3.])
    """
    chosen = np.expand_dims(values.mean(axis=1).argmax(axis=0), (0, 1))
    picked: Floats = np.take_along_axis(values, chosen, axis=0)[0]
    return picked


def at_level(path: Floats, level: float) -> Floats | None:
    """The point (M,) of a path (N, M) at which its first column first reaches a level, if it does; straight between."""
    for before, after in pairwise(path):
        if before[0] < level <= after[0]:
            point: Floats = before + (after - before) * (level - before[0]) / (after[0] - before[0])
            return point
    return None

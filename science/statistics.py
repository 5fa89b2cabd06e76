"""Estimates with their intervals, each for itself; science/simultaneous.py has those that hold together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def estimate(values: Sequence[float] | Floats) -> Estimate:
    """Mean and Student's interval (Student 1908) of independent values, two at least.

    >>> str(estimate([0.1, 0.2, 0.3]))
    '+0.200 [-0.048, +0.448]'
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(student.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def of_positive(values: Sequence[float] | Floats) -> Estimate:
    """The geometric mean of values above 0, with Student's interval of their logarithms: never below 0.

    >>> str(of_positive([1, 10, 100]))
    '+10.000 [+0.033, +3050.302]'
    """
    found = estimate(np.log(values))
    return Estimate(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def of_cosines(values: Sequence[float] | Floats) -> Estimate:
    """The mean of values between -1 and 1, with its interval, by Fisher's transformation (1915): never beyond them."""
    found = estimate(np.arctanh(values))
    return Estimate(math.tanh(found.mean), math.tanh(found.low), math.tanh(found.high))

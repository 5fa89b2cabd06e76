"""Intervals that hold together: how often they do, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from science.simultaneous import correlation, simultaneous

SHARED, STUDIES = 6, 400


def study(draws: np.random.Generator, seeds: int, *, skewed: bool) -> NDArray[np.float64]:
    """Leads (K, S, P) of one arm over K others, all of them 0, that vary over seeds and prompts."""

    def effect(*shape: int) -> NDArray[np.float64]:
        return draws.exponential(1, shape) - 1 if skewed else draws.normal(0, 1, shape)

    ours = 0.03 * effect(1, seeds, 1) + 0.1 * effect(1, seeds, 16)
    theirs = 0.03 * effect(SHARED, seeds, 1) + 0.1 * effect(SHARED, seeds, 16)
    return ours - theirs


@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "skewed"])
@pytest.mark.parametrize("seeds", [3, 8])
def test_all_intervals_hold_together_in_95_percent_of_studies(seeds: int, skewed: bool) -> None:
    draws = np.random.default_rng(seeds)
    held = 0
    for _ in range(STUDIES):
        found = simultaneous(study(draws, seeds, skewed=skewed), draws=1000)
        held += all(one.low <= 0 <= one.high for one in found)
    assert 0.92 <= held / STUDIES <= 0.985


def test_they_are_no_wider_than_by_bonferroni_and_wider_than_one_alone() -> None:
    values = study(np.random.default_rng(2), 8, skewed=False)
    found = simultaneous(values)
    errors = values.mean(axis=2).std(axis=1, ddof=1) / math.sqrt(8)
    multiples = [(one.high - one.low) / 2 / error for one, error in zip(found, errors, strict=True)]
    assert multiples == pytest.approx([multiples[0]] * SHARED)
    assert student.ppf(0.975, 7) < multiples[0] < student.ppf(1 - 0.025 / SHARED, 7)
    assert [one.mean for one in found] == pytest.approx(values.mean(axis=(1, 2)))


def test_one_inequality_has_students_interval() -> None:
    values = study(np.random.default_rng(3), 8, skewed=False)[:1]
    (found,) = simultaneous(values)
    half = student.ppf(0.975, 7) * values.mean(axis=2).std(ddof=1) / math.sqrt(8)
    assert found.high - found.mean == pytest.approx(half, rel=0.03)


def test_one_seed_says_nothing_of_others() -> None:
    (found,) = simultaneous(np.ones((1, 1, 5)))
    assert (found.mean, found.low, found.high) == (1, -math.inf, math.inf)


def test_what_shares_arms_is_correlated_and_what_never_varies_is_not() -> None:
    values = study(np.random.default_rng(4), 8, skewed=False)
    values[-1] = 0.5
    found = correlation(values)
    assert np.diag(found).tolist() == [1] * SHARED
    assert found[:-2, :-2].min() > 0.2
    assert (found[-1, :-1] == 0).all()
    assert simultaneous(values)[-1].low == 0.5

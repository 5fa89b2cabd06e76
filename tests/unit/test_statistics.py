"""Paired comparison: numbers that can be worked out by hand or by theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.statistics import compare_paired

scores = st.floats(-10, 10, width=32)
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=30)


def test_means_and_win_rate_are_those_worked_out_by_hand() -> None:
    compared = compare_paired([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0, 3.0])
    assert (compared.base_mean, compared.candidate_mean, compared.gain) == (2.5, 3.0, 0.5)
    assert compared.win_rate == (1 + 0.5 + 1 + 0) / 4
    assert compared.num_prompts == 4


def test_interval_of_a_mean_is_that_of_normal_theory() -> None:
    gains = np.random.default_rng(1).normal(0.3, 2.0, 500)
    compared = compare_paired(np.zeros(500), gains)
    half_width = 1.96 * gains.std() / np.sqrt(500)
    assert compared.gain_low == pytest.approx(gains.mean() - half_width, abs=0.1 * half_width)
    assert compared.gain_high == pytest.approx(gains.mean() + half_width, abs=0.1 * half_width)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        compared = compare_paired(np.zeros(60), rng.exponential(1.0, 60))
        covered += compared.gain_low <= 1.0 <= compared.gain_high
    assert 0.88 <= covered / 200 <= 0.98


def test_pairing_cancels_what_a_prompt_gives_to_both_sides() -> None:
    base = np.random.default_rng(3).normal(0, 100, 50)
    compared = compare_paired(base, base + 0.5)
    assert compared.gain_high - compared.gain_low < 1e-9
    assert (compared.win_low, compared.win_rate, compared.win_high) == (1, 1, 1)


@settings(deadline=None)
@given(pairs)
def test_equal_sides_gain_exactly_nothing_and_win_half(drawn: list[tuple[float, float]]) -> None:
    base = [first for first, _ in drawn]
    compared = compare_paired(base, base)
    assert (compared.gain_low, compared.gain, compared.gain_high) == (0, 0, 0)
    assert (compared.win_low, compared.win_rate, compared.win_high) == (0.5, 0.5, 0.5)


@settings(deadline=None)
@given(pairs)
def test_swapping_the_sides_turns_everything_round(drawn: list[tuple[float, float]]) -> None:
    base, candidate = map(list, zip(*drawn, strict=True))
    there, back = compare_paired(base, candidate), compare_paired(candidate, base)
    assert there.gain == -back.gain
    assert there.gain_low == pytest.approx(-back.gain_high, abs=1e-9)
    assert there.win_low == pytest.approx(1 - back.win_high, abs=1e-9)


@settings(deadline=None)
@given(pairs, st.floats(0, 5, width=32))
def test_a_candidate_that_is_nowhere_worse_has_no_lower_interval(drawn: list[tuple[float, float]], lift: float) -> None:
    base, candidate = map(list, zip(*drawn, strict=True))
    lifted = [value + lift * (index % 2) for index, value in enumerate(candidate)]
    worse, better = compare_paired(base, candidate), compare_paired(base, lifted)
    assert better.gain_low >= worse.gain_low
    assert better.win_low >= worse.win_low


def test_the_same_scores_give_the_same_interval_and_another_seed_another() -> None:
    base, candidate = np.random.default_rng(4).normal(size=(2, 40))
    assert compare_paired(base, candidate) == compare_paired(base, candidate)
    assert compare_paired(base, candidate) != compare_paired(base, candidate, seed=1)


@pytest.mark.parametrize(
    ("base", "candidate", "message"),
    [
        ([], [], "no scores to compare"),
        ([1.0, 2.0], [1.0], "not two lists of one length"),
        ([1.0, float("nan")], [1.0, 2.0], "1 of 2 scores of the base are not finite"),
        ([1.0, 2.0], [float("inf"), float("nan")], "2 of 2 scores of the candidate are not finite"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(base: list[float], candidate: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(base, candidate)

"""Statistics: numbers that can be worked out by hand or by theory, and what must hold for any."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from drtune.evaluation.statistics import Paired, bootstrap, compare_paired, holm, sign_flip_test, wilson

numbers = st.floats(-10, 10, width=32)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30)


def compared(opponent: ArrayLike, candidate: ArrayLike) -> Paired:
    """Of one measure; its numbers are the first of each array."""
    return compare_paired(np.reshape(opponent, (-1, 1)), np.reshape(candidate, (-1, 1)))


def test_gain_effect_and_win_rate_are_those_worked_out_by_hand() -> None:
    paired = compared([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0, 3.0])
    assert paired.gain == [0.5]
    assert paired.win_rate == [(1 + 0.5 + 1 + 0) / 4]
    assert paired.effect == pytest.approx([0.5 / math.sqrt(1.25)])


def test_measures_are_compared_each_by_itself() -> None:
    opponent, candidate = np.random.default_rng(0).normal(size=(2, 40, 3))
    together = compare_paired(opponent, candidate)
    for column in range(3):
        alone = compared(opponent[:, column], candidate[:, column])
        for name, values in vars(together).items():
            assert values[column] == pytest.approx(getattr(alone, name)[0]), name


def test_interval_of_a_mean_is_that_of_normal_theory() -> None:
    gains = np.random.default_rng(1).normal(0.3, 2.0, (500, 1))
    low, high = bootstrap(gains)
    half_width = 1.96 * gains.std() / np.sqrt(500)
    assert low[0] == pytest.approx(gains.mean() - half_width, abs=0.1 * half_width)
    assert high[0] == pytest.approx(gains.mean() + half_width, abs=0.1 * half_width)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    low, high = bootstrap(rng.exponential(1.0, (60, 400)))
    assert 0.90 <= ((low <= 1.0) & (high >= 1.0)).mean() <= 0.98
    rates = rng.binomial(60, 0.9, 2000) / 60
    low, high = wilson(rates, 60)
    assert 0.93 <= ((low <= 0.9) & (high >= 0.9)).mean() <= 0.98


def test_what_memory_holds_at_a_time_does_not_change_the_intervals_much() -> None:
    few = np.random.default_rng(3).normal(size=(200, 1))
    low, high = bootstrap(few)
    many_low, many_high = bootstrap(np.tile(few, (20, 1)))  # 4,000 prompts are resampled in several parts
    assert many_high[0] - many_low[0] == pytest.approx((high[0] - low[0]) / math.sqrt(20), rel=0.1)


def test_wilson_is_that_of_the_published_formula_and_not_empty_when_all_agree() -> None:
    low, high = wilson(0.9, 100)
    assert (float(low), float(high)) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    low, high = wilson([0.0, 0.5, 1.0], 10)
    nothing = 1.959964**2 / (10 + 1.959964**2)
    assert low == pytest.approx([0, 0.2366, 1 - nothing], abs=1e-4)
    assert high == pytest.approx([nothing, 0.7634, 1], abs=1e-4)


def test_pairing_cancels_what_a_prompt_gives_to_both_sides() -> None:
    opponent = np.random.default_rng(4).normal(0, 100, 50)
    paired = compared(opponent, opponent + 0.5)
    assert paired.gain_high[0] - paired.gain_low[0] < 1e-9
    assert paired.win_rate == [1]
    assert paired.p_value == [1e-4]


def test_the_permutation_test_agrees_with_all_permutations() -> None:
    gains = np.array([0.8, -0.3, 1.2, 0.4, 0.1, 0.9, -0.2, 0.7])
    means = np.array([np.dot(signs, gains) for signs in itertools.product([-1, 1], repeat=8)]) / 8
    exact = (np.abs(means) >= gains.mean() - 1e-12).mean()
    assert sign_flip_test(gains[:, None])[0] == pytest.approx(exact, abs=0.01)


def test_p_values_are_evenly_spread_when_there_is_no_difference() -> None:
    p_values = sign_flip_test(np.random.default_rng(5).normal(size=(40, 500)))
    for level in (0.05, 0.2, 0.5):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 500))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(raw <= after <= 1 for raw, after in zip(p_values, corrected, strict=True))
    assert min(corrected) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [corrected[index] for index in order] == sorted(corrected)


@given(pairs)
def test_equal_sides_gain_exactly_nothing_and_win_half(drawn: list[tuple[float, float]]) -> None:
    opponent = [first for first, _ in drawn]
    paired = compared(opponent, opponent)
    assert (paired.gain_low, paired.gain, paired.gain_high) == ([0], [0], [0])
    assert (paired.effect, paired.p_value, paired.win_rate) == ([0], [1], [0.5])
    assert paired.win_low[0] + paired.win_high[0] == pytest.approx(1)


@given(pairs)
def test_swapping_the_sides_turns_everything_round(drawn: list[tuple[float, float]]) -> None:
    opponent, candidate = map(list, zip(*drawn, strict=True))
    there, back = compared(opponent, candidate), compared(candidate, opponent)
    assert there.gain == -back.gain
    assert there.gain_low == pytest.approx(-back.gain_high, abs=1e-9)
    assert there.win_low == pytest.approx(1 - back.win_high, abs=1e-9)
    assert there.p_value == back.p_value


@given(pairs, st.floats(0, 5, width=32))
def test_a_candidate_that_is_nowhere_worse_has_no_lower_interval(drawn: list[tuple[float, float]], lift: float) -> None:
    opponent, candidate = map(list, zip(*drawn, strict=True))
    lifted = [value + lift * (index % 2) for index, value in enumerate(candidate)]
    worse, better = compared(opponent, candidate), compared(opponent, lifted)
    assert better.gain_low >= worse.gain_low - 1e-12
    assert better.win_low >= worse.win_low - 1e-12
    assert better.effect >= worse.effect - 1e-12


def test_the_same_scores_give_the_same_numbers() -> None:
    opponent, candidate = np.random.default_rng(6).normal(size=(2, 40))
    first, second = compared(opponent, candidate), compared(opponent, candidate)
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name))


@pytest.mark.parametrize(
    ("opponent", "candidate", "message"),
    [
        (np.zeros((0, 1)), np.zeros((0, 1)), "wanted a row for each of one or more prompts"),
        (np.zeros((2, 1)), np.zeros((1, 1)), "are not of one shape"),
        (np.array([[1.0], [np.nan]]), np.zeros((2, 1)), "1 of 2 scores of the opponent are not finite"),
        (np.zeros((2, 1)), np.array([[np.inf], [np.nan]]), "2 of 2 scores of the candidate are not finite"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(opponent: ArrayLike, candidate: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(opponent, candidate)

"""Statistics: numbers that can be worked out by hand or by theory, and what must hold for any."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from benchmarks.coverage import SHAPES, coverage, coverage_of_diversity
from drtune.contracts import MIN_PROMPTS
from drtune.evaluation.statistics import (
    FLIPS,
    Paired,
    compare_paired,
    holm,
    mean_interval,
    pseudo_values,
    sign_flip_test,
    wilson,
)

numbers = st.floats(-10, 10, width=32)
pairs = st.lists(st.tuples(numbers, numbers), min_size=MIN_PROMPTS, max_size=30)


def compared(opponent: ArrayLike, candidate: ArrayLike) -> Paired:
    """Of one measure; its numbers are the first of each array."""
    return compare_paired(np.reshape(opponent, (-1, 1)), np.reshape(candidate, (-1, 1)))


def test_gain_effect_and_win_rate_are_those_worked_out_by_hand() -> None:
    paired = compared([1.0, 2.0, 3.0, 4.0] * 2, [2.0, 2.0, 5.0, 3.0] * 2)
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


def test_interval_of_values_without_skew_is_students() -> None:
    half = np.random.default_rng(1).normal(size=(6, 3))
    values = np.concatenate([half, -half]) + 0.3
    low, high = mean_interval(values)
    wanted = stats.t.interval(0.95, 11, loc=values.mean(axis=0), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], wanted, rtol=1e-4)


def test_interval_of_skewed_values_is_that_of_halls_transformation() -> None:
    values = np.random.default_rng(2).exponential(size=(20, 1))
    low, high = mean_interval(values)
    deviation, root = values.std(), math.sqrt(20)
    skew = stats.skew(values, bias=False)[0]
    for end, point in ((low, 0.975), (high, 0.025)):
        t = (values.mean() - end[0]) / (deviation / math.sqrt(19))
        g = t + skew * t**2 / (3 * root) + skew**2 * t**3 / (27 * 20) + skew / (6 * root)
        assert g == pytest.approx(stats.t.ppf(point, 19), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_hold_the_truth_as_often_as_they_say(shape: str) -> None:
    lowest = {"normal": (0.94, 0.94, 0.94), "exp": (0.93, 0.94, 0.94), "-lognormal": (0.91, 0.92, 0.93)}[shape]
    for count, low in zip((10, 20, 192), lowest, strict=True):
        assert low <= coverage(shape, count, 4000) <= 0.965


def test_intervals_of_diversity_hold_the_truth_as_often_as_they_say() -> None:
    for count in (10, 64):
        assert 0.93 <= coverage_of_diversity(count, 1500) <= 0.97


def test_an_interval_with_a_single_other_value_is_finite_and_holds_the_mean() -> None:
    values = np.zeros((9, 3))
    values[0] = [1.0, -1e-150, 0.0]
    low, high = mean_interval(values)
    assert np.isfinite([low, high]).all()
    assert (low[:2] < values.mean(axis=0)[:2]).all()
    assert (low[2], high[2]) == (0, 0)


def test_pseudo_values_are_those_of_leaving_one_out() -> None:
    points = np.random.default_rng(3).normal(size=9)
    distances = np.abs(points[:, None] - points)

    def over_pairs(kept: list[int]) -> float:
        return float(distances[np.ix_(kept, kept)].sum() / (len(kept) * (len(kept) - 1)))

    everyone = list(range(9))
    wanted = [9 * over_pairs(everyone) - 8 * over_pairs([*everyone[:one], *everyone[one + 1 :]]) for one in everyone]
    np.testing.assert_allclose(pseudo_values(distances.sum(axis=1) / 8), wanted)
    np.testing.assert_array_equal(pseudo_values([0.5, 0.5]), [0.5, 0.5])


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
    assert paired.gain_low is not None
    assert paired.gain_low[0] == pytest.approx(0.5)
    assert paired.win_rate == [1]


def test_the_permutation_test_of_few_prompts_is_that_of_all_permutations() -> None:
    gains = np.array([0.8, -0.3, 1.2, 0.4, 0.1, 0.9, -0.2, 0.7])
    means = np.array([np.dot(signs, gains) for signs in itertools.product([-1, 1], repeat=8)]) / 8
    assert sign_flip_test(gains[:, None]) == [(np.abs(means) >= gains.mean() - 1e-12).mean()]
    assert sign_flip_test(np.ones((14, 1))) == [2 / 2**14]


def test_the_permutation_test_of_many_prompts_agrees_with_the_normal_distribution() -> None:
    gains = np.random.default_rng(7).normal(0.2, 1.0, (100, 1))
    z = gains.sum() / np.sqrt((gains**2).sum())
    assert sign_flip_test(gains)[0] == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.15)


def test_a_clear_finding_outlives_the_correction_in_a_table_of_thousands() -> None:
    gains = np.random.default_rng(8).normal(size=(64, 3000))
    gains[:, 0] += 1.0
    p_values = sign_flip_test(gains)
    assert 1e-12 < p_values[0] < 1 / (1 + FLIPS) / 10
    corrected = holm(p_values.tolist())
    assert corrected[0] < 0.01
    assert min(corrected[1:]) > 0.05


@pytest.mark.parametrize("count", [15, 20, 30, 60])
def test_a_p_value_beyond_the_drawn_flips_is_never_too_low(count: int) -> None:
    assert 2.0 ** (1 - count) <= sign_flip_test(np.ones((count, 1)))[0] <= 1 / (1 + FLIPS)


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
    assert paired.win_low is not None
    assert paired.win_high is not None
    assert paired.win_low[0] + paired.win_high[0] == pytest.approx(1)


@given(pairs)
def test_swapping_the_sides_turns_everything_round(drawn: list[tuple[float, float]]) -> None:
    opponent, candidate = map(list, zip(*drawn, strict=True))
    there, back = compared(opponent, candidate), compared(candidate, opponent)
    assert there.gain == -back.gain
    assert there.gain_low is not None
    assert back.gain_high is not None
    assert there.gain_low == pytest.approx(-back.gain_high, abs=1e-9)
    assert there.win_low is not None
    assert back.win_high is not None
    assert there.win_low == pytest.approx(1 - back.win_high, abs=1e-9)
    assert there.p_value == back.p_value


@given(pairs, st.floats(0, 5, width=32))
def test_what_is_gained_on_every_prompt_alike_lifts_the_interval_by_just_that(
    drawn: list[tuple[float, float]], lift: float
) -> None:
    opponent, candidate = np.array(drawn).T
    worse, better = compared(opponent, candidate), compared(opponent, candidate + lift)
    for name in ("gain", "gain_low", "gain_high"):
        assert getattr(better, name) == pytest.approx(getattr(worse, name) + lift, abs=1e-6), name


@given(pairs, st.floats(0, 5, width=32))
def test_a_candidate_that_is_nowhere_worse_has_no_lower_gain_effect_or_win_rate(
    drawn: list[tuple[float, float]], lift: float
) -> None:
    opponent, candidate = map(list, zip(*drawn, strict=True))
    lifted = [value + lift * (index % 2) for index, value in enumerate(candidate)]
    worse, better = compared(opponent, candidate), compared(opponent, lifted)
    for name in ("gain", "effect", "win_rate", "win_low", "win_high"):
        assert getattr(better, name) >= getattr(worse, name) - 1e-12, name


def test_one_prompt_far_above_the_others_makes_the_gain_less_sure() -> None:
    gains = np.random.default_rng(9).normal(0.5, 0.1, (20, 2))
    gains[0, 1] += 50
    low, _ = mean_interval(gains)
    assert gains[:, 1].mean() > gains[:, 0].mean()
    assert low[1] < low[0]


@pytest.mark.parametrize("count", range(1, MIN_PROMPTS))
def test_nothing_is_said_of_chance_on_too_few_prompts(count: int) -> None:
    paired = compared(np.zeros(count), np.ones(count))
    assert (paired.gain, paired.win_rate) == ([1], [1])
    assert {name for name, value in vars(paired).items() if value is not None} == {"gain", "win_rate"}


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

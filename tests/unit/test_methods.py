"""Plans: which steps each method may draw. What it does with them: test_supervision.py."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drtune.config import MethodConfig
from drtune.methods.plans import Plan, draw_plan

SEEDS = st.integers(0, 2**32)


@st.composite
def drtune_methods(draw: st.DrawFn) -> tuple[MethodConfig, int]:
    num_steps = draw(st.integers(1, 60))
    early_stop = draw(st.integers(1, num_steps))
    trained = draw(st.integers(1, num_steps - early_stop + 1))
    return MethodConfig(trained_steps=trained, early_stop=early_stop), num_steps


def plans(method: MethodConfig, num_steps: int, count: int = 600) -> list[Plan]:
    generator = torch.Generator().manual_seed(0)
    return [draw_plan(method, num_steps, generator) for _ in range(count)]


@given(drtune_methods(), SEEDS)
def test_every_drtune_plan_trains_k_equally_spaced_steps_that_run(method: tuple[MethodConfig, int], seed: int) -> None:
    config, num_steps = method
    plan = draw_plan(config, num_steps, torch.Generator().manual_seed(seed))
    assert num_steps - config.early_stop <= plan.stop <= num_steps - 1
    assert len(plan.trained) == config.trained_steps
    assert plan.trained[0] >= 0
    assert plan.trained[-1] <= plan.stop
    gaps = {second - first for first, second in zip(plan.trained, plan.trained[1:], strict=False)}
    assert gaps <= {(plan.stop + 1) // config.trained_steps}
    assert plan.alpha == 0


def test_drtune_draws_all_stops_and_all_offsets() -> None:
    drawn = plans(MethodConfig(trained_steps=1, early_stop=3), 5)
    stops = Counter(plan.stop for plan in drawn)
    assert set(stops) == {2, 3, 4}
    assert min(stops.values()) > 150
    assert {plan.trained[0] for plan in drawn if plan.stop == 4} == {0, 1, 2, 3, 4}


def test_refl_trains_the_step_at_which_it_stops_in_a_late_range() -> None:
    drawn = Counter((plan.stop, plan.trained, plan.alpha) for plan in plans(MethodConfig(name="refl", early_stop=3), 8))
    assert set(drawn) == {(5, (5,), 0.0), (6, (6,), 0.0), (7, (7,), 0.0)}
    assert min(drawn.values()) > 150


def test_draft_k_trains_the_last_k_steps_attached() -> None:
    assert set(plans(MethodConfig(name="draft_k", trained_steps=3), 8, 9)) == {Plan(7, (5, 6, 7), alpha=1.0)}


def test_draft_lv_trains_the_last_step() -> None:
    assert set(plans(MethodConfig(name="draft_lv"), 8, 9)) == {Plan(7, (7,), alpha=1.0)}


def test_alignprop_trains_the_last_steps_attached_to_a_depth_that_is_drawn() -> None:
    drawn = Counter(plans(MethodConfig(name="alignprop", trained_steps=3), 8))
    assert set(drawn) == {Plan(7, tuple(range(8 - depth, 8)), alpha=1.0) for depth in (1, 2, 3)}
    assert min(drawn.values()) > 150


def test_full_trains_every_step_attached() -> None:
    assert set(plans(MethodConfig(name="full"), 4, 9)) == {Plan(3, (0, 1, 2, 3), alpha=1.0)}


def test_leapalign_draws_every_pair_of_steps() -> None:
    drawn = Counter(plans(MethodConfig(name="leapalign"), 4))
    pairs = [(first, second) for second in range(4) for first in range(second)]
    assert set(drawn) == {Plan(3, pair, alpha=0.3, leaps=((pair[0],), (pair[1],)), tau=0.1) for pair in pairs}
    assert min(drawn.values()) > 60


def test_flowbp_sparse_draws_late_steps_more_often_and_every_step_sometimes() -> None:
    drawn = plans(MethodConfig(name="flowbp_sparse", trained_steps=1), 4)
    assert {(plan.stop, plan.alpha, plan.rescale, plan.attached) for plan in drawn} == {(3, 0.0, 1.0, ())}
    counts = Counter(plan.trained[0] for plan in drawn)
    expected = [600 * share / 30 for share in (1, 4, 9, 16)]
    assert [counts[step] for step in range(4)] == pytest.approx(expected, abs=4 * 600**0.5 / 2)
    assert counts[0] > 0
    assert all(len(set(plan.trained)) == 3 for plan in plans(MethodConfig(name="flowbp_sparse", trained_steps=3), 5))


@given(st.integers(2, 40), st.data(), SEEDS)
def test_flowbp_bridge_trains_k_steps_on_both_sides_of_a_bridge(num_steps: int, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(2, num_steps))
    method = MethodConfig(name="flowbp_bridge", trained_steps=count)
    plan = draw_plan(method, num_steps, torch.Generator().manual_seed(seed))
    assert list(plan.trained) == sorted(set(plan.trained))
    assert len(plan.trained) == count
    (bridge,) = plan.attached
    assert plan.trained[0] < bridge
    assert bridge in plan.trained
    assert plan.trained[-1] < num_steps


@given(st.integers(2, 60), SEEDS)
def test_flowbp_lagrange_leaps_twice_through_three_outputs_of_which_two_train(num_steps: int, seed: int) -> None:
    plan = draw_plan(MethodConfig(name="flowbp_lagrange"), num_steps, torch.Generator().manual_seed(seed))
    (first, *_), (second, *rest) = plan.leaps
    assert 0 <= first < second < num_steps
    for leap, end in zip(plan.leaps, (second, num_steps), strict=True):
        assert list(leap) == sorted(set(leap))
        assert (leap[-1], len(leap)) == (end - 1, min(3, end - leap[0]))
    assert plan.trained == (*plan.leaps[0][:2], second, *rest[:1])
    assert plan.gains == tuple(1.0 if step in (first, second) else 0.25 for step in plan.trained)
    assert (plan.attached, plan.alpha, plan.rescale, plan.tau) == ((second,), 0.1, 0.5, 0.2)


def test_flowbp_lagrange_places_its_leaps_as_the_code_of_its_paper() -> None:
    """`_dirichlet_sample` (flowbp/trainers/common/jk_sampling.py, 93b220a), run 40,000 times."""
    method = MethodConfig(name="flowbp_lagrange")
    for num_steps, at_once, before, second in THEIRS:
        drawn = [(first[0], num_steps - last[0]) for first, last in (p.leaps for p in plans(method, num_steps, 3000))]
        assert sum(start == 0 for start, _ in drawn) / 3000 == pytest.approx(at_once, abs=0.03)
        assert sum(start for start, _ in drawn) / 3000 == pytest.approx(before, rel=0.08)
        assert sum(length for _, length in drawn) / 3000 == pytest.approx(second, rel=0.05)
        assert min(length for _, length in drawn) == 2
    assert {plan.leaps for plan in plans(method, 3, 50)} == {((0,), (1, 2))}
    assert {plan.leaps for plan in plans(method, 2, 50)} == {((0,), (1,))}


THEIRS = ((12, 0.335, 1.34, 3.88), (25, 0.107, 3.78, 6.98))
"""T, how often the first leap begins at step 0, and mean lengths: of what lies before it, of the second leap."""


def test_drtune_placed_over_the_chain_loses_the_steps_beyond_the_stop() -> None:
    """T = 10, K = 3, m = 6: in the prefix three always train; as the paper draws them, the stop may cut two off."""
    settings = {"trained_steps": 3, "early_stop": 6}
    prefix, chain = (
        plans(MethodConfig.model_validate(settings | {"placement": placement}), 10, 3000)
        for placement in ("prefix", "chain")
    )
    assert {len(plan.trained) for plan in prefix} == {3}
    assert {len(plan.trained) for plan in chain} == {1, 2, 3}
    assert all(plan.trained[-1] <= plan.stop for plan in chain)
    for drawn, share in ((prefix, PREFIX), (chain, CHAIN)):
        counts = Counter(step for plan in drawn for step in plan.trained)
        assert [counts[step] / 3000 for step in range(10)] == pytest.approx(share, abs=0.04)


def exact_shares(placement: str) -> list[float]:
    """How often each of 10 steps trains in the long run, by counting all stops and offsets."""
    shares = [0.0] * 10
    for executed in range(5, 11):
        among = executed if placement == "prefix" else 10
        offsets = range(among - 2 * (among // 3))
        for offset in offsets:
            for step in range(offset, offset + 2 * (among // 3) + 1, among // 3):
                if step < executed:
                    shares[step] += 1 / 6 / len(offsets)
    return shares


PREFIX, CHAIN = exact_shares("prefix"), exact_shares("chain")


def test_direct_align_renoises_to_one_of_the_steps_before_the_last() -> None:
    drawn = Counter(plans(MethodConfig(name="direct_align", early_stop=3), 6))
    assert set(drawn) == {Plan(index, (index,), 0.0, start=index, gains=(1.0,)) for index in (2, 3, 4)}
    assert min(drawn.values()) > 150


def test_srpo_takes_steps_in_a_row_that_count_less_and_praise_less_the_later_they_are() -> None:
    method = MethodConfig(name="srpo", early_stop=4, recoveries=3, discount=0.5)
    early, late = sorted({*plans(method, 6)}, key=lambda plan: plan.start)
    assert early.trained == (0, 1, 2)
    assert late.trained == (1, 2, 3)  # from the step after the next one it steps back, which is the last of all
    assert early.gains == (1, 0.5, 0.25)
    assert late.gains == (0.5, 0.25, 0.125)
    praised, blamed = zip(*early.surpluses, strict=True)
    assert praised == pytest.approx((0.25, 0.2, 0.15))
    assert blamed == pytest.approx((0.01, 0.01 + 0.29 / 3, 0.01 + 2 * 0.29 / 3))
    assert late.surpluses[-1] == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize(
    "name", ["drtune", "refl", "draft_k", "draft_lv", "alignprop", "full", "leapalign", "flowbp_bridge"]
)
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_alpha_is_as_published_unless_it_is_given(name: str, alpha: float) -> None:
    method = MethodConfig.model_validate({"name": name, "alpha": alpha})
    assert draw_plan(method, 8, torch.Generator()).alpha == alpha


@given(SEEDS)
def test_a_plan_depends_on_the_generator_alone(seed: int) -> None:
    for name in ("drtune", "refl", "alignprop", "leapalign", "flowbp_bridge", "flowbp_lagrange", "direct_align"):
        method = MethodConfig.model_validate({"name": name})
        first, second = (draw_plan(method, 20, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert first == second

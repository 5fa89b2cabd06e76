"""Plans: what DRTune may draw."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from drtune.config import MethodConfig
from drtune.methods import draw_plan


@st.composite
def methods(draw: st.DrawFn) -> tuple[MethodConfig, int]:
    num_steps = draw(st.integers(1, 60))
    early_stop = draw(st.integers(1, num_steps))
    trained = draw(st.integers(1, num_steps - early_stop + 1))
    return MethodConfig(trained_steps=trained, early_stop=early_stop), num_steps


@given(methods(), st.integers(0, 2**32))
def test_every_plan_trains_k_equally_spaced_steps_that_run(method: tuple[MethodConfig, int], seed: int) -> None:
    config, num_steps = method
    plan = draw_plan(config, num_steps, torch.Generator().manual_seed(seed))
    assert num_steps - config.early_stop <= plan.stop <= num_steps - 1
    assert len(plan.trained) == config.trained_steps
    assert plan.trained[0] >= 0
    assert plan.trained[-1] <= plan.stop
    assert len({second - first for first, second in zip(plan.trained, plan.trained[1:], strict=False)}) <= 1
    assert plan.alpha == 0


def test_all_stops_and_all_offsets_occur() -> None:
    config = MethodConfig(trained_steps=1, early_stop=3)
    generator = torch.Generator().manual_seed(0)
    plans = [draw_plan(config, 5, generator) for _ in range(600)]
    stops = Counter(plan.stop for plan in plans)
    assert set(stops) == {2, 3, 4}
    assert min(stops.values()) > 150
    assert {plan.trained[0] for plan in plans if plan.stop == 4} == {0, 1, 2, 3, 4}


def test_full_trains_every_step_through_its_input() -> None:
    plan = draw_plan(MethodConfig(name="full"), 4, torch.Generator())
    assert plan.trained == (0, 1, 2, 3)
    assert plan.stop == 3
    assert plan.alpha == 1

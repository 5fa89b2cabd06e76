"""What makes each method that method: which steps run and train, through which inputs, and what is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import supervise
from tests.unit.test_supervision import (
    BATCH,
    METHODS,
    T,
    gradient_left_by,
    noise,
    rewards_of,
    task_of,
)


class Counted:
    """A denoiser that notes at which timesteps it runs forwards and backwards."""

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.denoiser = denoiser
        self.forwards: list[float] = []
        self.backwards: list[float] = []
        self.through_input: list[float] = []

    def __call__(self, latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        output = self.denoiser(latents_BCHW, timesteps_B)
        told = timesteps_B[::BATCH].tolist()
        self.forwards += told
        if output.requires_grad:
            output.register_hook(lambda _: self.backwards.extend(told))
            if latents_BCHW.requires_grad:
                self.through_input += told
        return output


def counted(name: str, plan: Plan, **compute: int) -> tuple[Counted, list[float]]:
    """The calls of one update, and the timestep of each step."""
    task = task_of(**compute)
    denoiser = Counted(task.denoiser)
    gradient_left_by(lambda: supervise(replace(task, denoiser=denoiser), METHODS[name], plan))
    return denoiser, [step.timestep for step in task.sampler.steps]


def test_drtune_runs_up_to_the_stop_and_its_k_steps_once_more_with_the_input_detached() -> None:
    calls, at = counted("drtune", Plan(stop=3, trained=(0, 1, 3), alpha=0.0))
    assert calls.forwards == [*at[:4], at[3], at[1], at[0]]
    assert calls.backwards == [at[3], at[1], at[0]]
    assert calls.through_input == []


def test_refl_trains_the_stopping_step_alone() -> None:
    plan = draw_plan(METHODS["refl"], T, torch.Generator().manual_seed(0))
    calls, at = counted("refl", plan)
    assert T - 3 <= plan.stop <= T - 1
    assert calls.forwards == [*at[: plan.stop + 1], at[plan.stop]]
    assert calls.backwards == [at[plan.stop]]


def test_draft_k_trains_the_last_k_steps_through_their_inputs() -> None:
    calls, at = counted("draft_k", draw_plan(METHODS["draft_k"], T, torch.Generator()))
    assert calls.forwards == [*at, at[4], at[3], at[2]]
    assert calls.backwards == [at[4], at[3], at[2]]
    assert calls.through_input == [at[4], at[3]]


def test_draft_lv_trains_the_last_step_of_its_own_picture_and_of_n_renoised_ones() -> None:
    calls, at = counted("draft_lv", draw_plan(METHODS["draft_lv"], T, torch.Generator()))
    assert calls.forwards == [*at, *[at[4]] * (1 + 2 * 2)]
    assert calls.backwards == [at[4]] * 3


def test_alignprop_trains_a_random_number_of_last_steps_through_their_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    plans = {draw_plan(METHODS["alignprop"], T, generator) for _ in range(60)}
    assert {plan.trained for plan in plans} == {tuple(range(T - depth, T)) for depth in (1, 2, 3, 4)}
    plan = Plan(stop=4, trained=(3, 4), alpha=1.0)
    assert plan in plans
    calls, at = counted("alignprop", plan)
    assert calls.backwards == [at[4], at[3]]
    assert calls.through_input == [at[4]]


def test_full_goes_back_through_every_step_to_the_noise() -> None:
    calls, at = counted("full", draw_plan(METHODS["full"], T, torch.Generator()))
    assert calls.forwards == [*at, *reversed(at)]
    assert calls.backwards == [*reversed(at)]
    assert calls.through_input == [*reversed(at[1:])]


def test_leapalign_runs_the_whole_chain_and_goes_back_in_two_leaps() -> None:
    calls, at = counted("leapalign", Plan(stop=4, trained=(1, 3), alpha=0.3, leaps=((1,), (3,))))
    assert calls.forwards == [*at, at[3], at[1]]
    assert calls.backwards == [at[3], at[1]]
    assert calls.through_input == [at[3]]


def test_direct_align_runs_the_whole_chain_and_some_steps_of_the_renoised_picture() -> None:
    plan = draw_plan(METHODS["direct_align"], T, torch.Generator().manual_seed(0))
    first, second = plan.trained
    assert second == first + 1 < T - 1
    calls, at = counted("direct_align", plan)
    assert calls.forwards == [*at, at[first], at[first], at[second], at[second]]
    assert calls.backwards == [at[first], at[second]]
    kept, _ = counted("direct_align", plan, keep_graphs=1)
    assert kept.forwards == [*at, at[first], at[second]]


def test_srpo_steps_towards_the_picture_and_back_to_the_same_level_for_the_opposite_of_the_reward() -> None:
    plan = Plan(1, (1,), 0.0, start=1, gains=(0.5,), surpluses=((0.2, 0.1),))
    calls, at = counted("srpo", plan)
    assert calls.forwards == [*at, at[1], at[1], at[3], at[3]]
    assert calls.backwards == [at[1], at[3]]

    asked: list[dict[str, Any]] = []

    def spied(clean_BCHW: Tensor, rows: slice, **sides: Any) -> Tensor:
        asked.append(sides)
        rewards = rewards_of(clean_BCHW, rows, **sides)
        rewards.register_hook(lambda gradient: owed.append(gradient))
        return rewards

    owed: list[Tensor] = []
    supervise(replace(task_of(), rewards_of=spied), METHODS["srpo"], plan)
    assert asked == [{"surplus": 0.2}, {"opposite": True, "surplus": 0.1}]
    assert all(torch.equal(gradient, torch.full((BATCH,), -1 / BATCH)) for gradient in owed)


def test_real_pictures_stand_in_for_the_roll_out() -> None:
    task = replace(task_of(), real_BCHW=noise("real"))
    denoiser, plan = Counted(task.denoiser), Plan(1, (1,), 0.0, start=1)
    gradient_left_by(lambda: supervise(replace(task, denoiser=denoiser), METHODS["direct_align"], plan))
    assert denoiser.forwards == [task.sampler.steps[1].timestep] * 2
    assert len(denoiser.backwards) == 1


def test_a_step_counts_as_its_discount_says() -> None:
    whole, half, both = (
        gradient_left_by(lambda plan=plan: supervise(task_of(), METHODS["direct_align"], plan))
        for plan in (
            Plan(1, (1,), 0.0, start=1),
            Plan(2, (2,), 0.0, start=2, gains=(0.5,)),
            Plan(2, (1, 2), 0.0, start=1, gains=(1.0, 0.5)),
        )
    )
    torch.testing.assert_close(both, whole + half)


@pytest.mark.parametrize("name", ["direct_align", "srpo"])
def test_the_picture_is_recovered_when_the_network_knows_the_noise(name: str) -> None:
    scored: list[Tensor] = []
    task = task_of()
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    known = noise()

    def perfect(latents_BCHW: Tensor, _timesteps_B: Tensor) -> Tensor:
        """Predicts the known noise: the picture at the end of the chain is then what is left of the first latents."""
        return weight * known.expand_as(latents_BCHW)

    def noted(clean_BCHW: Tensor, rows: slice, **_sides: Any) -> Tensor:
        scored.append(clean_BCHW.detach())
        return rewards_of(clean_BCHW, rows)

    perfect_task = replace(task, denoiser=perfect, rewards_of=noted)
    for index in range(T - 2):
        plan = Plan(index, (index,), 0.0, start=index, surpluses=((0.0, 0.0),))
        supervise(perfect_task, METHODS[name], plan)
    latents = noise()
    for step in task.sampler.steps:
        (a, b) = step.move
        latents = a * latents + b * known
    assert len(scored) == (T - 2) * (2 if name == "srpo" else 1)
    for clean in scored:
        torch.testing.assert_close(clean, latents.detach(), rtol=1e-5, atol=1e-5)


def test_a_kept_graph_saves_the_second_forward_and_a_shared_one_joins_them() -> None:
    plan = Plan(stop=4, trained=(0, 2, 4), alpha=0.0)
    kept, at = counted("drtune", plan, keep_graphs=2)
    assert kept.forwards == [*at, at[0]]
    assert kept.backwards == [at[4], at[2], at[0]]
    shared, _ = counted("drtune", plan, replay_batch=2)
    assert shared.forwards == [*at, at[4], at[2], at[0]]
    assert shared.backwards == [at[4], at[2], at[0]]


@pytest.mark.parametrize("stop", range(T))
def test_one_step_anywhere_before_any_stop_trains(stop: int) -> None:
    for trained in range(stop + 1):
        plan = Plan(stop=stop, trained=(trained,), alpha=0.0)
        gradient = gradient_left_by(lambda plan=plan: supervise(task_of(), METHODS["drtune"], plan))
        assert gradient.norm() > 1e-4

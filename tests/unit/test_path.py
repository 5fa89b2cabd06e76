"""The gradient's way back, as numbers: what each trained output is owed."""

from __future__ import annotations

from math import hypot, prod

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from drtune.config import Weighting
from drtune.methods.path import Leg, Misses, gradient_path, path_of
from drtune.methods.plans import Plan
from drtune.models.sampler import Sampler, SamplerStep, Scheduler, read_sampler
from tools.miniature.networks import make_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler of diffusers

T = 5


def sampler_of(kind: str) -> Sampler:
    match kind:
        case "ddim":
            scheduler: Scheduler = make_scheduler()
        case "euler":
            scheduler = EulerDiscreteScheduler.from_config(make_scheduler().config)
        case _:
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(T)
    return read_sampler(scheduler)


def owed(legs: list[Leg]) -> dict[int, float]:
    """Of each output, by the chain from there to the clean end."""
    return {
        index: b * prod(later.a for later in legs[place + 1 :])
        for place, leg in enumerate(legs)
        for index, b in leg.outputs.items()
    }


def signal_of(kind: str, step: SamplerStep) -> float:
    """In what the network sees: of a noise schedule, of which it sees unit variance whatever the sampler, or a flow."""
    signal, noise = step.level
    return signal if kind == "flow" else signal / hypot(signal, noise)


@pytest.mark.parametrize("kind", ["ddim", "euler", "flow"])
def test_each_step_is_owed_what_the_weighting_says(kind: str) -> None:
    sampler, plan = sampler_of(kind), Plan(stop=3, trained=(0, 2, 3), alpha=0.0)
    chain = owed(path_of(sampler, plan))
    assert list(chain) == [0, 1, 2, 3]
    assert all(weight < 0 for weight in chain.values())
    assert sampler.steps[0].seen_signal < 0.1 < 0.8 < sampler.steps[-1].seen_signal
    assert owed(gradient_path(sampler, plan)) == pytest.approx({step: chain[step] for step in plan.trained})
    weightings: tuple[Weighting, ...] = ("uniform", "signal")
    for weighting in weightings:
        shares = [signal_of(kind, step) if weighting == "signal" else 1.0 for step in sampler.steps[:4]]
        size = sum(chain.values()) / sum(shares)
        expected = {step: size * shares[step] for step in plan.trained}
        assert owed(gradient_path(sampler, plan, weighting)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["ddim", "flow"])
def test_trained_steps_stand_in_for_all_as_far_as_the_plan_says(kind: str) -> None:
    sampler = sampler_of(kind)
    every = sum(map(abs, owed(path_of(sampler, Plan(stop=4, trained=(1, 3), alpha=0.0))).values()))
    sizes = [
        sum(map(abs, owed(gradient_path(sampler, Plan(4, (1, 3), 0.0, rescale=rescale))).values()))
        for rescale in (0.0, 0.5, 1.0)
    ]
    assert sizes[2] == pytest.approx(every)
    assert sizes[1] == pytest.approx((sizes[0] + sizes[2]) / 2)
    assert sizes[0] < 0.9 * every


def test_each_leap_has_its_own_outputs_to_stand_for() -> None:
    """Of a flow: the first two of three outputs at full rescale owe as much as all three."""
    sampler = sampler_of("flow")
    leaps = ((0, 1, 2), (3, 4))
    plan = Plan(4, (0, 1, 3, 4), 0.1, bridges=(3,), leaps=leaps, rescale=1.0)
    whole, part = path_of(sampler, plan), gradient_path(sampler, plan)
    for leg, trained in zip(whole, part, strict=True):
        assert sum(map(abs, trained.outputs.values())) == pytest.approx(sum(map(abs, leg.outputs.values())))
    assert list(part[0].outputs) == [0, 1]
    gains = gradient_path(sampler, Plan(4, (0, 1, 3, 4), 0.1, leaps=leaps, gains=(1.0, 0.25, 1.0, 0.25)))
    assert gains[0].outputs[1] == pytest.approx(0.25 * whole[0].outputs[1])


def test_pictures_count_by_how_near_the_leaps_come() -> None:
    """Two pictures, leaps from 0 to 1 and from there to the end: x = 2 x + out, then x = x + 3 out."""
    path = [Leg(0, {0: 2.0}, {0: 1.0}), Leg(1, {1: 1.0}, {1: 3.0})]
    misses = Misses(path, tau=0.5)
    one = torch.ones(2, 1, 1, 1)
    misses.note(0, one, 0 * one)  # lands on 2
    misses.note(1, torch.tensor([2.0, 6.0]).view(2, 1, 1, 1), one)  # misses by 0 and 4; lands on 5 and 9
    counts = misses.weights(torch.tensor([6.0, 9.25]).view(2, 1, 1, 1))  # misses by 1 and 0.25
    assert counts.tolist() == pytest.approx([1 / (0.5 + 1), 1 / (4 + 0.5)])

"""The sweep's gradient is that of ordinary autograd through the chain, at the memory of one network call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from drtune.config import MethodConfig
from drtune.methods import Plan, draw_plan
from drtune.miniature.networks import make_scheduler
from drtune.sampling import SamplerStep, ddim_steps
from drtune.sweep import roll_out, score, sweep_back
from tests.tiny import denoiser_of, tunable_unet

Denoiser = Callable[[Tensor, int], Tensor]


def reward_of(clean_BCHW: Tensor) -> Tensor:
    """Something curved that sees every latent."""
    weights = torch.linspace(-1, 1, clean_BCHW[0].numel(), dtype=clean_BCHW.dtype).view_as(clean_BCHW[0])
    return torch.tanh(clean_BCHW * weights).sum((1, 2, 3)) - 0.05 * clean_BCHW.square().sum((1, 2, 3))


def oracle_clean(denoiser: Denoiser, steps: list[SamplerStep], noise: Tensor, plan: Plan) -> Tensor:
    """The chain as the paper writes it, with everything in one graph."""
    latents = noise
    for index, step in enumerate(steps[: plan.stop + 1]):
        # alpha mixes the detached input with the attached one: the value is the same, the gradient is scaled.
        seen = plan.alpha * latents + (1 - plan.alpha) * latents.detach()
        if index in plan.trained:
            output = denoiser(seen, step.timestep)
        else:
            with torch.no_grad():
                output = denoiser(seen, step.timestep)
        a, b = step.jump if index == plan.stop < len(steps) - 1 else step.move
        latents = a * latents + b * output
    return latents


def gradients(run: Callable[[], None], weights: list[Tensor]) -> Tensor:
    """All gradients that `run` leaves on the weights, end to end."""
    for weight in weights:
        weight.grad = None
    run()
    assert all(weight.grad is not None for weight in weights)
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


def relative_error(plan: Plan, num_steps: int, guidance_scale: float, dtype: torch.dtype = torch.float64) -> float:
    unet, weights = tunable_unet(dtype)
    denoiser = denoiser_of(unet, guidance_scale)
    steps = ddim_steps(make_scheduler(), num_steps)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=dtype)

    def swept() -> None:
        rollout = roll_out(denoiser, steps, noise, plan)
        _, gradient = score(reward_of, rollout.clean_BCHW)
        sweep_back(denoiser, steps, rollout, gradient, plan)

    def autograd() -> None:
        (-reward_of(oracle_clean(denoiser, steps, noise, plan)).mean()).backward()

    ours, theirs = gradients(swept, weights), gradients(autograd, weights)
    assert theirs.norm() > 1e-3
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(("num_steps", "trained", "early_stop"), [(4, 1, 1), (6, 3, 3), (12, 4, 3), (20, 5, 8)])
def test_drtune_gradient_equals_autograd(num_steps: int, trained: int, early_stop: int, guidance_scale: float) -> None:
    method = MethodConfig(trained_steps=trained, early_stop=early_stop)
    for seed in range(3):
        plan = draw_plan(method, num_steps, torch.Generator().manual_seed(seed))
        assert relative_error(plan, num_steps, guidance_scale) <= 1e-9


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_full_gradient_equals_autograd(guidance_scale: float) -> None:
    plan = draw_plan(MethodConfig(name="full"), 6, torch.Generator())
    assert relative_error(plan, 6, guidance_scale) <= 1e-9


def test_part_of_the_gradient_may_pass_through_the_input() -> None:
    plan = Plan(stop=5, trained=(3, 4, 5), alpha=0.3)
    assert relative_error(plan, 6, guidance_scale=1.0) <= 1e-9


def test_single_precision_is_close() -> None:
    plan = draw_plan(MethodConfig(trained_steps=4, early_stop=3), 12, torch.Generator().manual_seed(1))
    assert relative_error(plan, 12, guidance_scale=3.0, dtype=torch.float32) <= 1e-5


def test_a_step_far_from_the_jump_still_trains_when_it_is_the_only_one() -> None:
    for trained in range(4):
        plan = Plan(stop=3, trained=(trained,), alpha=0.0)
        assert relative_error(plan, 8, guidance_scale=1.0) <= 1e-9


def bytes_saved_for_backward(num_steps: int, trained: int) -> int:
    """The largest sum of tensors that autograd holds at once during the sweep."""
    unet, _ = tunable_unet(torch.float32)
    denoiser = denoiser_of(unet, 1.0)
    steps = ddim_steps(make_scheduler(), num_steps)
    plan = draw_plan(MethodConfig(trained_steps=trained, early_stop=1), num_steps, torch.Generator().manual_seed(0))
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    held = {"now": 0, "peak": 0}

    class Saved:
        """A tensor that autograd holds; counted as long as it lives."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            held["now"] += self.size
            held["peak"] = max(held["peak"], held["now"])

        def __del__(self) -> None:
            held["now"] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        rollout = roll_out(denoiser, steps, noise, plan)
        _, gradient = score(reward_of, rollout.clean_BCHW)
        sweep_back(denoiser, steps, rollout, gradient, plan)
    assert held["now"] == 0
    return held["peak"]


def test_memory_does_not_grow_with_sampler_steps_or_trained_steps() -> None:
    reference = bytes_saved_for_backward(num_steps=8, trained=4)
    assert reference > 0
    assert bytes_saved_for_backward(num_steps=40, trained=4) == reference
    assert bytes_saved_for_backward(num_steps=8, trained=1) == reference
    assert bytes_saved_for_backward(num_steps=8, trained=8) == reference

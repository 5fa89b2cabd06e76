"""The sampler's coefficients are those of diffusers' own scheduler, step by step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from drtune.errors import UserError
from drtune.miniature.networks import make_scheduler
from drtune.sampling import ddim_scheduler, ddim_steps

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("ends_at_one", [True, False])
@pytest.mark.parametrize("num_steps", [1, 7, 12, 50])
def test_steps_are_those_of_diffusers(prediction_type: str, spacing: str, ends_at_one: bool, num_steps: int) -> None:
    scheduler = DDIMScheduler(
        **SDXL, prediction_type=prediction_type, timestep_spacing=spacing, set_alpha_to_one=ends_at_one
    )
    steps = ddim_steps(scheduler, num_steps)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64)
    for step in steps:
        output = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
        theirs = scheduler.step(output, step.timestep, latents)
        (a, b), (a0, b0) = step.move, step.jump
        torch.testing.assert_close(a0 * latents + b0 * output, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a * latents + b * output, theirs.prev_sample, rtol=1e-5, atol=1e-5)
        latents = theirs.prev_sample


def test_the_last_step_is_the_jump_when_the_schedule_ends_without_noise() -> None:
    last = ddim_steps(make_scheduler(), 12)[-1]
    assert last.move == pytest.approx(last.jump)


def test_weights_of_the_outputs_are_steep() -> None:
    """SD 1.5, 50 steps: the change of sigma is 1.44 at the noisiest step and 0.012 to 0.03 near the end."""
    scheduler = DDIMScheduler(**SDXL, steps_offset=1, timestep_spacing="leading", set_alpha_to_one=False)
    steps = ddim_steps(scheduler, 50)
    sigmas = [-step.jump[1] for step in steps]
    gaps = [first - second for first, second in pairwise(sigmas)]
    assert gaps[0] == pytest.approx(1.44, abs=0.01)
    assert sum(gaps[:10]) / sigmas[0] == pytest.approx(0.64, abs=0.01)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
def test_a_base_that_comes_with_another_sampler_keeps_its_noise_schedule() -> None:
    euler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    steps = ddim_steps(ddim_scheduler(euler.config), 30)
    euler.set_timesteps(30)
    assert [step.timestep for step in steps] == euler.timesteps.tolist()
    assert [-step.jump[1] for step in steps] == pytest.approx(euler.sigmas[:-1].tolist(), rel=1e-5)


def test_a_flow_model_is_refused_by_name() -> None:
    scheduler = DDIMScheduler(**SDXL)
    scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(UserError, match="prediction_type='flow_prediction'"):
        ddim_steps(scheduler, 4)


def test_a_clipping_scheduler_is_refused() -> None:
    with pytest.raises(UserError, match="clip_sample"):
        ddim_steps(DDIMScheduler(clip_sample=True), 4)

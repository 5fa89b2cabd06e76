"""The sampler's numbers are those of diffusers' own schedulers, step by step, on the schedules of real models."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

from drtune.errors import UserError
from drtune.models.sampler import Sampler, Scheduler, make_scheduler, read_sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler of diffusers

# The scheduler_config.json of the models, but for what the three samplers do not read.
LATENT_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD15 = {**LATENT_DIFFUSION, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
SDXL = {**SD15, "timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False}
SD21 = {**SD15, "prediction_type": "v_prediction"}
ZERO_SNR = {
    **LATENT_DIFFUSION,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SD3 = {"num_train_timesteps": 1000, "shift": 3.0}
FLUX = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
NOISE_SCHEDULES: dict[str, dict[str, Any]] = {
    "sd1.5": SD15,
    "sdxl": SDXL,
    "sd2.1": SD21,
    "zero-snr": ZERO_SNR,
    "ends-at-one": {**SDXL, "set_alpha_to_one": True},
    "x0": {**SDXL, "prediction_type": "sample"},
    "karras": {**SDXL, "use_karras_sigmas": True},
}


def prepared(name: str, config: dict[str, Any], num_steps: int) -> Scheduler:
    """A scheduler with its timesteps set as the model's pipeline sets them."""
    scheduler = make_scheduler(name, config)
    if config.get("use_dynamic_shifting"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=0.8)
    else:
        scheduler.set_timesteps(num_steps)
    return scheduler


def randoms(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64)


def assert_same_steps(name: str, config: dict[str, Any], num_steps: int, eta: float = 0.0) -> Sampler:
    """Our numbers against the scheduler's own steps, one after the other, on random outputs (and noise)."""
    sampler = read_sampler(prepared(name, config, num_steps), eta)
    scheduler, generator = prepared(name, config, num_steps), randoms()
    assert [step.timestep for step in sampler.steps] == scheduler.timesteps.tolist()
    latents = sampler.initial_scale * normal(generator)
    for step, timestep in zip(sampler.steps, scheduler.timesteps, strict=True):
        output, fresh = normal(generator), normal(generator)
        if name == "flow_euler":
            theirs = scheduler.step(output, timestep, latents)
        else:
            torch.testing.assert_close(
                step.scale * latents, scheduler.scale_model_input(latents, timestep), rtol=1e-6, atol=1e-6
            )
            noise = {"eta": eta, "variance_noise": fresh} if name == "ddim" else {}
            theirs = scheduler.step(output, timestep, latents, **noise)
            (a0, b0) = step.jump
            torch.testing.assert_close(
                a0 * latents + b0 * output, theirs.pred_original_sample, rtol=1e-5, atol=1e-5 * abs(a0) + 1e-6
            )
        a, b = step.move
        torch.testing.assert_close(
            a * latents + b * output + step.fresh * fresh, theirs.prev_sample, rtol=1e-5, atol=1e-5
        )
        latents = theirs.prev_sample
    return sampler


@pytest.mark.parametrize("num_steps", [1, 7, 30, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_steps_on_a_noise_schedule_are_those_of_diffusers(
    name: str, schedule: str, spacing: str, num_steps: int
) -> None:
    config = {**NOISE_SCHEDULES[schedule], "timestep_spacing": spacing}
    assert_same_steps(name, config, num_steps)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("schedule", ["sd1.5", "sdxl", "sd2.1", "ends-at-one"])
def test_steps_with_fresh_noise_are_those_of_diffusers(schedule: str, eta: float) -> None:
    sampler = assert_same_steps("ddim", NOISE_SCHEDULES[schedule], 20, eta)
    assert all(step.fresh > 0 for step in sampler.steps[:-1])


@pytest.mark.parametrize("num_steps", [1, 4, 28])
@pytest.mark.parametrize("config", [SD3, FLUX, {"shift": 1.0}], ids=["sd3", "flux", "unshifted"])
def test_steps_on_a_flow_are_those_of_diffusers(config: dict[str, Any], num_steps: int) -> None:
    sampler = assert_same_steps("flow_euler", config, num_steps)
    assert sampler.initial_scale == 1
    for step in sampler.steps:
        # diffusers has no x0 of a flow to compare with: x = (1 - sigma) x0 + sigma epsilon, out = epsilon - x0.
        sigma = step.timestep / 1000
        clean, epsilon = normal(randoms(1)), normal(randoms(2))
        a0, b0 = step.jump
        latents = (1 - sigma) * clean + sigma * epsilon
        torch.testing.assert_close(a0 * latents + b0 * (epsilon - clean), clean, rtol=1e-5, atol=1e-5)
    assert sampler.steps[-1].move == pytest.approx(sampler.steps[-1].jump)


@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("schedule", ["sd1.5", "sdxl", "sd2.1", "zero-snr"])
def test_the_level_is_that_at_which_diffusers_adds_noise(name: str, schedule: str) -> None:
    scheduler = prepared(name, NOISE_SCHEDULES[schedule], 12)
    sampler = read_sampler(scheduler)
    clean, epsilon = normal(randoms(1)), normal(randoms(2))
    for index, step in enumerate(sampler.steps):
        scheduler.set_timesteps(12)
        theirs = scheduler.add_noise(clean, epsilon, scheduler.timesteps[index : index + 1])
        signal, noise = step.level
        torch.testing.assert_close(signal * clean + noise * epsilon, theirs, rtol=1e-5, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------


CHAINS = [("ddim", SDXL), ("ddim", SD21), ("ddim", ZERO_SNR), ("euler", SDXL), ("euler", SD21), ("flow_euler", SD3)]
CHAIN_IDS = ["ddim-epsilon", "ddim-v", "ddim-zero-snr", "euler-epsilon", "euler-v", "flow"]


def perfect_output(name: str, config: dict[str, Any], level: tuple[float, float], clean: Tensor, eps: Tensor) -> Tensor:
    """What a perfect network predicts for latents of known x0 and epsilon."""
    if name == "flow_euler":
        return eps - clean
    if config.get("prediction_type") == "v_prediction":
        signal, noise = level
        return (signal * eps - noise * clean) / (signal**2 + noise**2) ** 0.5
    return eps


@pytest.mark.parametrize(("name", "config"), CHAINS, ids=CHAIN_IDS)
def test_a_leap_lands_on_the_latents_of_a_perfect_network(name: str, config: dict[str, Any]) -> None:
    sampler = read_sampler(prepared(name, config, 10))
    clean, eps = normal(randoms(1)), normal(randoms(2))

    def latents(index: int) -> Tensor:
        signal, noise = sampler.steps[index].level
        return signal * clean + noise * eps

    def landed(nodes: tuple[int, ...], end: int | None) -> Tensor:
        seen, outputs = sampler.leap(nodes, end)
        said = [b * perfect_output(name, config, sampler.steps[node].level, clean, eps) for node, b in outputs.items()]
        return sum([a * latents(node) for node, a in seen.items()]) + sum(said)

    for start in range(9):
        for end in range(start + 1, 10):
            torch.testing.assert_close(landed((start,), end), latents(end), rtol=1e-5, atol=2e-5)
    if sampler.steps[0].level[0] > 0:
        for nodes in (2, 3), (2, 4, 5):
            torch.testing.assert_close(landed(nodes, 7), latents(7), rtol=1e-5, atol=2e-5)
            torch.testing.assert_close(landed(nodes, None), clean, rtol=1e-4, atol=1e-4)


def test_a_leap_of_three_outputs_is_exact_where_the_velocity_is_a_parabola() -> None:
    sampler = read_sampler(prepared("flow_euler", {"shift": 3.0}, 10))
    sigmas = [step.level[1] for step in sampler.steps]
    for end in (8, None):
        seen, outputs = sampler.leap((1, 3, 6), end)
        landed = seen[1] * sigmas[1] ** 3 + sum(b * 3 * sigmas[node] ** 2 for node, b in outputs.items())
        assert landed == pytest.approx(0.0 if end is None else sigmas[end] ** 3, abs=1e-9)


def test_a_leap_of_several_outputs_from_a_signal_of_zero_is_refused_in_one_line() -> None:
    step = read_sampler(prepared("ddim", SDXL, 2)).steps[1]
    sampler = Sampler((replace(step, level=(0.0, 1.0)), step), initial_scale=1.0)
    with pytest.raises(UserError, match=r"^a leap with several outputs: .*another scheduler"):
        sampler.leap((0, 1), None)


@pytest.mark.parametrize(("name", "config"), CHAINS, ids=CHAIN_IDS)
def test_a_leap_to_the_next_step_is_the_samplers_own_step(name: str, config: dict[str, Any]) -> None:
    sampler = read_sampler(prepared(name, config, 10))  # 10 divides 1000: DDIM steps from one grid point to the next
    for index, step in enumerate(sampler.steps[:-1]):
        seen, outputs = sampler.leap((index,), index + 1)
        assert (seen[index], outputs[index]) == pytest.approx(step.move, rel=1e-4, abs=1e-5)


def test_the_last_step_is_the_jump_when_the_schedule_ends_without_noise() -> None:
    ending = read_sampler(prepared("ddim", {**SDXL, "set_alpha_to_one": True}, 12)).steps[-1]
    assert ending.move == pytest.approx(ending.jump)
    stopping = read_sampler(prepared("ddim", SDXL, 12)).steps[-1]
    assert stopping.move != pytest.approx(stopping.jump, rel=1e-3)


def test_weights_of_the_outputs_are_steep() -> None:
    """SD 1.5, 50 steps: the change of sigma is 1.44 at the noisiest step and 0.012 to 0.03 near the end."""
    sigmas = [-step.jump[1] for step in read_sampler(prepared("ddim", SD15, 50)).steps]
    gaps = [first - second for first, second in pairwise(sigmas)]
    assert gaps[0] == pytest.approx(1.44, abs=0.01)
    assert sum(gaps[:10]) / sigmas[0] == pytest.approx(0.64, abs=0.01)


# ----------------------------------------------------------------------------------------------------------------------


def test_a_base_that_comes_with_another_sampler_keeps_its_noise_schedule() -> None:
    theirs = EulerDiscreteScheduler.from_config(SDXL)
    theirs.set_timesteps(30)
    sampler = read_sampler(prepared("ddim", dict(theirs.config), 30))
    assert [step.timestep for step in sampler.steps] == theirs.timesteps.tolist()
    assert [-step.jump[1] for step in sampler.steps] == pytest.approx(theirs.sigmas[:-1].tolist(), rel=1e-5)


def test_a_configuration_that_says_nothing_of_clipping_does_not_clip() -> None:
    theirs = PNDMScheduler.from_config({**LATENT_DIFFUSION, "steps_offset": 1})
    assert len(read_sampler(prepared("ddim", dict(theirs.config), 5)).steps) == 5


@pytest.mark.parametrize("num_steps", [1, 4, 20])
@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        (DDIMScheduler(**LATENT_DIFFUSION, clip_sample=True), "switch off clip_sample"),
        (DDIMScheduler(**LATENT_DIFFUSION, clip_sample=False, thresholding=True), "thresholding"),
        (DDIMScheduler.from_config({**ZERO_SNR, "prediction_type": "epsilon", "clip_sample": False}), "predict v"),
        (DDIMScheduler.from_config({**SD15, "prediction_type": "flow_prediction"}), "given as flow_prediction"),
        (EulerDiscreteScheduler.from_config({**SD15, "prediction_type": "flow_prediction"}), "flow_prediction"),
    ],
    ids=["clipping", "thresholding", "zero-snr-epsilon", "ddim-unknown", "euler-unknown"],
)
def test_a_step_without_a_usable_gradient_is_refused_in_one_line(
    scheduler: Scheduler, wanted: str, num_steps: int
) -> None:
    scheduler.set_timesteps(num_steps)
    with pytest.raises(UserError, match=f"scheduler {type(scheduler).__name__}: .*{wanted}") as caught:
        read_sampler(scheduler)
    assert "\n" not in str(caught.value)


def test_stochastic_sampling_is_refused_in_one_line() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match=r"timestep 1000 is not a weighted sum .* stochastic_sampling"):
        read_sampler(scheduler)

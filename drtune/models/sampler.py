"""Sampling as linear algebra: every step is a weighted sum of the latents and of the network's output.

    x_next = a * x + b * out (+ c * fresh noise)          x0 = a0 * x + b0 * out

That holds for every deterministic single-step sampler, and with eta for DDIM's random one. The numbers are not derived
here for each sampler and each kind of prediction: they are read off diffusers' own scheduler, by showing it unit
latents, a unit output and unit noise. So they are right by construction, spacing and zero terminal SNR included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from drtune.errors import UserError

Scheduler: TypeAlias = Any
"""One of the three that `make_scheduler` makes; diffusers is not typed."""


@dataclass(frozen=True)
class SamplerStep:
    """One step of a sampler, to the next less noisy one."""

    timestep: float
    """What the network is told, in the scheduler's own unit."""
    scale: float
    """The network sees scale * latents: 1 but for Euler on a noise schedule."""
    level: tuple[float, float]
    """Signal and noise of the latents here: x = signal * x0 + noise * epsilon."""
    move: tuple[float, float]
    """a and b: to the latents of the next step."""
    jump: tuple[float, float]
    """a0 and b0: to the clean latents, as predicted from here."""
    fresh: float = 0.0
    """c: standard deviation of the fresh noise that the move adds."""

    def timesteps(self, latents_BCHW: Tensor) -> Tensor:
        """The timestep (B,) for a batch."""
        return torch.full((len(latents_BCHW),), self.timestep, device=latents_BCHW.device)


@dataclass(frozen=True)
class Sampler:
    """All steps from noise to image, the noisiest first."""

    steps: tuple[SamplerStep, ...]
    initial_scale: float
    """The first latents are unit noise times this."""

    def leap(self, start: int, end: int) -> tuple[float, float]:
        """The weights a and b of one deterministic step from step `start` to the noise level of step `end`.

        x_end = signal_end * x0 + noise_end * epsilon, with x0 as predicted at `start` and epsilon what is left of x.
        """
        (a0, b0), (signal, noise) = self.steps[start].jump, self.steps[start].level
        end_signal, end_noise = self.steps[end].level
        x0_share = end_signal - end_noise * signal / noise
        return x0_share * a0 + end_noise / noise, x0_share * b0


def make_scheduler(name: str, config: Mapping[str, Any]) -> Scheduler:
    """The sampler `name` (ddim, euler or flow_euler) on the schedule of any scheduler's configuration.

    A configuration that says nothing of clipping does not clip.
    """
    if name == "ddim":
        scheduler: Scheduler = DDIMScheduler.from_config({"clip_sample": False, **config})
    elif name == "euler":
        scheduler = EulerDiscreteScheduler.from_config(dict(config))
    else:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    return scheduler


def read_sampler(scheduler: Scheduler, eta: float = 0.0) -> Sampler:
    """The steps of a scheduler whose timesteps have just been set; it takes each of them once.

    Raises:
        UserError: a step is not a weighted sum: the scheduler clips, divides by a signal of zero, or draws noise; or
            the scheduler does not know the kind of prediction.
    """
    try:
        steps = tuple(_read_step(scheduler, index, eta) for index in range(len(scheduler.timesteps)))
    except ValueError as error:
        raise UserError(f"scheduler {type(scheduler).__name__}: {error}") from None
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    return Sampler(steps, initial_scale=1.0 if flow else float(scheduler.init_noise_sigma))


def _read_step(scheduler: Scheduler, index: int, eta: float) -> SamplerStep:
    timestep = scheduler.timesteps[index]
    # Four pictures of one pixel: unit latents, a unit output, unit noise, and a mixture far outside of any range.
    latents, output, noise = torch.tensor(
        [[1.0, 0.0, 0.0, 70.0], [0.0, 1.0, 0.0, -30.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64
    ).view(3, 4, 1, 1, 1)
    scale = 1.0
    if isinstance(scheduler, DDIMScheduler):
        signal_power = scheduler.alphas_cumprod[timestep].item()
        level = math.sqrt(signal_power), math.sqrt(1 - signal_power)
        stepped = scheduler.step(output, int(timestep), latents, eta=eta, variance_noise=noise)
        clean = stepped.pred_original_sample
    elif isinstance(scheduler, EulerDiscreteScheduler):
        level = 1.0, scheduler.sigmas[index].item()
        scale = scheduler.scale_model_input(torch.ones(()), timestep).item()
        stepped = scheduler.step(output, timestep, latents)
        clean = stepped.pred_original_sample
    else:
        sigma = scheduler.sigmas[index].item()
        level = 1 - sigma, sigma
        stepped = scheduler.step(output, timestep, latents)
        clean = latents - sigma * output
    moved = stepped.prev_sample
    move, jump = _weights(moved, scheduler, timestep), _weights(clean, scheduler, timestep)
    return SamplerStep(float(timestep), scale, level, move, jump, fresh=moved[2].item())


def _weights(stepped: Tensor, scheduler: Scheduler, timestep: Tensor) -> tuple[float, float]:
    """The weights of latents and output in what a step made of the four pictures."""
    a, b, _, mixture = stepped.flatten().tolist()
    if not (math.isfinite(mixture) and math.isclose(70 * a - 30 * b, mixture, rel_tol=1e-6, abs_tol=1e-6)):
        raise UserError(
            f"scheduler {type(scheduler).__name__}: its step at timestep {timestep:g} is not a weighted sum of latents "
            "and output, so it has no usable gradient: switch off clip_sample, thresholding and stochastic_sampling; "
            "with rescale_betas_zero_snr predict v, and keep eta below 1"
        )
    return a, b

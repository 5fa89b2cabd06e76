"""Sampling as linear algebra: every DDIM step is a weighted sum of the latents and of the network's output.

    x_next = a * x + b * out          x0 = a0 * x + b0 * out

Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 with eta = 0, for epsilon and for v prediction
(Salimans and Ho 2022, section 4 and appendix D). Those four numbers are all that the sweep has to know of a sampler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DDIMScheduler

from drtune.errors import UserError


@dataclass(frozen=True)
class SamplerStep:
    """One step of the sampler, from `timestep` to the next less noisy one."""

    timestep: int
    move: tuple[float, float]
    """a and b: to the latents of the next step."""
    jump: tuple[float, float]
    """a0 and b0: to the clean latents, as predicted from here."""


def ddim_scheduler(config: Mapping[str, Any]) -> DDIMScheduler:
    """DDIM on the noise schedule of any scheduler's configuration; one that says nothing of clipping does not clip."""
    scheduler: DDIMScheduler = DDIMScheduler.from_config({"clip_sample": False, **config})
    return scheduler


def ddim_steps(scheduler: DDIMScheduler, num_steps: int) -> list[SamplerStep]:
    """The `num_steps` DDIM steps of `scheduler`, noisiest first, with eta 0.

    Raises:
        UserError: the scheduler's prediction type is neither epsilon nor v, or it clips its predictions.
    """
    config = scheduler.config
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"prediction_type={config.prediction_type!r} of the base model's scheduler is not supported: "
            "use a model that predicts epsilon or v_prediction"
        )
    if config.clip_sample or config.thresholding:
        raise UserError("the base model's scheduler clips its samples, which has no gradient: set clip_sample to false")
    scheduler.set_timesteps(num_steps)
    alpha_bars = scheduler.alphas_cumprod.double()
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    stride = config.num_train_timesteps // num_steps
    steps = []
    for timestep in timesteps:
        previous = timestep - stride
        alpha_bar = float(alpha_bars[timestep])
        next_alpha_bar = float(alpha_bars[previous]) if previous >= 0 else float(scheduler.final_alpha_cumprod)
        steps.append(_linear_step(timestep, alpha_bar, next_alpha_bar, config.prediction_type))
    return steps


def _linear_step(timestep: int, alpha_bar: float, next_alpha_bar: float, prediction_type: str) -> SamplerStep:
    """x0 = a0 x + b0 out and epsilon = ae x + be out, recombined at the next noise level."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "epsilon":
        a0, b0, ae, be = 1 / signal, -noise / signal, 0.0, 1.0
    else:
        a0, b0, ae, be = signal, -noise, noise, signal
    next_signal, next_noise = math.sqrt(next_alpha_bar), math.sqrt(1 - next_alpha_bar)
    move = (next_signal * a0 + next_noise * ae, next_signal * b0 + next_noise * be)
    return SamplerStep(timestep, move, jump=(a0, b0))

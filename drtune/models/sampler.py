"""Sampling as linear algebra: every step is a weighted sum of the latents and of the network's output.

    x_next = a * x + b * out (+ c * fresh noise)          x0 = a0 * x + b0 * out

That holds for every deterministic single-step sampler, and with eta for DDIM's random one. The numbers are not derived
here for each sampler and each kind of prediction: they are read off diffusers' own scheduler, by showing it unit
latents, a unit output and unit noise. So they are right by construction, spacing and zero terminal SNR included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from numpy.polynomial import Polynomial
from torch import Tensor

from drtune.errors import UserError

Scheduler: TypeAlias = Any
"""One of the three that `make_scheduler` makes; diffusers is not typed."""
SCHEDULE_SETTINGS = MappingProxyType({"ddim": "beta_schedule", "euler": "beta_schedule", "flow_euler": "shift"})
"""By sampler what a scheduler's configuration tells its noise schedule by: without it, diffusers takes a default."""


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

    @property
    def seen_signal(self) -> float:
        """How much of x0 is in what the network sees; unlike the level's signal it grows with every sampler."""
        return self.scale * self.level[0]

    def timesteps(self, latents_BCHW: Tensor) -> Tensor:
        """The timestep (B,) for a batch."""
        return torch.full((len(latents_BCHW),), self.timestep, device=latents_BCHW.device)


@dataclass(frozen=True)
class Sampler:
    """All steps from noise to image, the noisiest first."""

    steps: tuple[SamplerStep, ...]
    initial_scale: float
    """The first latents are unit noise times this."""
    is_flow: bool = False

    def leap(self, nodes: Sequence[int], end: int | None) -> tuple[dict[int, float], dict[int, float]]:
        """The weights a of latents and b of outputs, by step, of one move from the first of `nodes` to step `end`.

        x_end = sum of a_i * x_i + sum of b_i * out_i; `end` None is the clean end. With one node it is a deterministic
        step of any length. With more it integrates the polynomial through what the network predicts at them: of a flow
        the velocity, dx = v d sigma; else the noise, d(x / signal) = epsilon d(noise / signal).

        Raises:
            UserError: several nodes on a noise schedule of zero terminal SNR, whose first sigma is infinite.
        """
        start = nodes[0]
        signal, _ = self.steps[start].level
        end_signal, end_noise = (1.0, 0.0) if end is None else self.steps[end].level
        if len(nodes) == 1:
            a, b = self._step_to(start, end_signal, end_noise)
            return {start: a}, {start: b}
        if self.is_flow:
            weights = _integrals([self.steps[node].level[1] for node in nodes], end_noise)
            return {start: 1.0}, dict(zip(nodes, weights, strict=True))
        if not signal:
            raise UserError("a leap with several outputs: not from a signal of zero; take another scheduler or method")
        ratios = [self.steps[node].level[1] / self.steps[node].level[0] for node in nodes]
        latents, outputs = {start: end_signal / signal}, {}
        for node, weight in zip(nodes, _integrals(ratios, end_noise / end_signal), strict=True):
            (a0, b0), (node_signal, node_noise) = self.steps[node].jump, self.steps[node].level
            share = end_signal * weight / node_noise  # of epsilon = (x - signal * x0) / noise
            latents[node] = latents.get(node, 0.0) + share * (1 - node_signal * a0)
            outputs[node] = -share * node_signal * b0
        return latents, outputs

    def _step_to(self, start: int, end_signal: float, end_noise: float) -> tuple[float, float]:
        """x_end = signal_end * x0 + noise_end * epsilon, with x0 as predicted, and epsilon what is left of x."""
        (a0, b0), (signal, noise) = self.steps[start].jump, self.steps[start].level
        x0_share = end_signal - end_noise * signal / noise
        return x0_share * a0 + end_noise / noise, x0_share * b0


def _integrals(nodes: Sequence[float], end: float) -> list[float]:
    """For each node, the integral from the first node to `end` of the polynomial that is 1 there and 0 at the others.

    >>> _integrals([1.0, 0.5], 0.0)
    [0.0, -1.0]
    """
    integrals = []
    for node in nodes:
        others = [other for other in nodes if other != node]
        basis = Polynomial.fromroots(others) / prod(node - other for other in others)
        antiderivative = basis.integ()
        integrals.append(float(antiderivative(end) - antiderivative(nodes[0])))
    return integrals


def make_scheduler(name: str, config: Mapping[str, Any]) -> Scheduler:
    """The sampler `name` (ddim, euler or flow_euler) on the schedule of a configuration that has `SCHEDULE_SETTINGS`.

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
    return Sampler(steps, initial_scale=1.0 if flow else float(scheduler.init_noise_sigma), is_flow=flow)


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

"""The adjoint sweep: the reward's exact gradient through the sampling chain, at the memory of one network call.

Three passes (docs/method.md). Roll out without a graph, keeping the latents of the steps to come back to. Score the
clean latents, and keep nothing of that but the gradient at them. Sweep back: with the adjoint

    lam = d loss / d x

known at the clean end, each visited step owes the network's output b * lam, and the step before it a * lam.

Shapes: B batch, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drtune.methods import Plan
from drtune.sampling import SamplerStep

Denoiser = Callable[[Tensor, int], Tensor]
"""`denoiser(latents_BCHW, timestep)`: the network's output after guidance, conditioned on one batch of prompts."""


@dataclass(frozen=True)
class Rollout:
    """Clean latents, and for each trained step the noisy latents that the network saw there."""

    clean_BCHW: Tensor
    inputs: dict[int, Tensor]


@torch.no_grad()
def roll_out(denoiser: Denoiser, steps: Sequence[SamplerStep], noise_BCHW: Tensor, plan: Plan) -> Rollout:
    """Sample from noise to `plan.stop`, without a graph; short of the last step, jump from there to clean latents."""
    latents = noise_BCHW
    inputs = {}
    for index, step in enumerate(steps[: plan.stop + 1]):
        if index in plan.trained:
            inputs[index] = latents
        a, b = _taken_with(steps, index, plan)
        latents = a * latents + b * denoiser(latents, step.timestep)
    return Rollout(latents, inputs)


def score(rewards_of: Callable[[Tensor], Tensor], clean_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards (B,) of clean latents, and the gradient of the loss, minus their mean, at those latents."""
    clean = clean_BCHW.detach().requires_grad_()
    rewards = rewards_of(clean)
    (gradient,) = torch.autograd.grad(-rewards.mean(), clean)
    return rewards.detach(), gradient


def sweep_back(
    denoiser: Denoiser, steps: Sequence[SamplerStep], rollout: Rollout, gradient_BCHW: Tensor, plan: Plan
) -> None:
    """Add d loss / d weights to the weights' `.grad`, one network graph at a time, from the clean end to the noise.

    `gradient_BCHW` is d loss / d clean latents. Only trained steps run the network again; an untrained step's output
    counts as a constant, so that the adjoint passes it by its linear part alone.
    """
    adjoint = gradient_BCHW
    for index in reversed(range(min(plan.trained), plan.stop + 1)):
        step = steps[index]
        a, b = _taken_with(steps, index, plan)
        if index not in plan.trained:
            adjoint = a * adjoint
            continue
        latents = rollout.inputs[index].detach().requires_grad_(plan.alpha > 0)
        denoiser(latents, step.timestep).backward(b * adjoint)
        adjoint = a * adjoint
        if latents.grad is not None:
            adjoint = adjoint + plan.alpha * latents.grad


def _taken_with(steps: Sequence[SamplerStep], index: int, plan: Plan) -> tuple[float, float]:
    """The weights of latents and output: of the jump where sampling stops early, else of the sampler's own step."""
    return steps[index].jump if index == plan.stop < len(steps) - 1 else steps[index].move

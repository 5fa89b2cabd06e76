"""The adjoint sweep: the reward's exact gradient through the sampling chain, at the memory of one network call.

Three passes (docs/method.md). Roll out without a graph, keeping the latents of the steps to come back to. Score the
clean latents, and keep nothing of that but the gradient at them. Sweep back: with the adjoint

    lam = d loss / d x

known at the clean end, each visited step owes the network's output b * lam, and the step before it a * lam.

Shapes: B batch, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from drtune.config import Weighting
from drtune.methods.loss_scale import LossScale, unscaled
from drtune.methods.path import Misses, gradient_path, jumps, path_of, taken
from drtune.methods.plans import Plan
from drtune.models.sampler import Sampler


class Denoiser(Protocol):
    """The network's output after guidance, conditioned on one batch of prompts.

    Given n times as many latents, it takes them as n whole batches laid end to end.
    """

    def __call__(self, latents_BCHW: Tensor, timesteps_B: Tensor, /) -> Tensor:
        """The output at latents and timesteps (B,)."""

    def part(self, rows: slice, /) -> Denoiser:
        """The same, conditioned on some rows of the batch."""


Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`penalty(output, latents, timesteps)`: d penalty / d output of trained steps, to be added to what they owe."""
DrawNoise = Callable[..., Tensor]
"""`draw_noise(*key)`: unit noise (B, C, H, W) that depends on the key alone."""


@dataclass(frozen=True)
class Rollout:
    """Clean latents, and for each trained step what the network saw there."""

    clean_BCHW: Tensor
    inputs: dict[int, Tensor]
    """Requires grad where the adjoint goes on through the network to an earlier trained step."""
    graphs: dict[int, Tensor]
    """Outputs of trained steps whose graph is kept."""
    counts_B: Tensor | None = None
    """How much each picture counts, where the plan's leaps have a `tau`."""

    def part(self, rows: slice) -> Rollout:
        """Some rows of the batch, of which no graph was kept."""
        inputs = {index: seen[rows].detach().requires_grad_(seen.requires_grad) for index, seen in self.inputs.items()}
        return Rollout(self.clean_BCHW[rows], inputs, {}, None if self.counts_B is None else self.counts_B[rows])


@torch.no_grad()
def roll_out(
    denoiser: Denoiser,
    sampler: Sampler,
    latents_BCHW: Tensor,
    plan: Plan,
    *,
    draw_noise: DrawNoise | None = None,
    keep_graphs: int = 0,
) -> Rollout:
    """Sample from `plan.start` to `plan.stop`; short of the last step, jump from there to clean latents.

    Without a graph, but for those of the last `keep_graphs` trained steps. `draw_noise` is needed where eta is not 0.
    """
    latents = latents_BCHW
    inputs: dict[int, Tensor] = {}
    graphs: dict[int, Tensor] = {}
    kept = plan.trained[max(0, len(plan.trained) - keep_graphs) :]
    misses = Misses(path_of(sampler, plan), plan.tau) if plan.tau else None
    for index in range(plan.start, plan.stop + 1):
        step = sampler.steps[index]
        seen = step.scale * latents
        if index in plan.trained:
            inputs[index] = seen.requires_grad_(index in plan.attached)
        with torch.set_grad_enabled(index in kept):
            output = denoiser(seen, step.timesteps(seen))
        if index in kept:
            graphs[index] = output
        if misses:
            misses.note(index, latents, output)
        a, b = taken(sampler, index, plan)
        latents = a * latents + b * output
        if step.fresh and not jumps(sampler, index, plan):
            assert draw_noise is not None
            latents = latents + step.fresh * draw_noise("fresh", index)
    return Rollout(latents, inputs, graphs, misses.weights(latents) if misses else None)


def sample_chain(denoiser: Denoiser, sampler: Sampler, latents_BCHW: Tensor, *, draw_noise: DrawNoise) -> Tensor:
    """Clean latents at the end of the whole chain, in which nothing trains; the rest is as in `roll_out`."""
    whole = Plan(stop=len(sampler.steps) - 1, trained=(), alpha=0.0)
    return roll_out(denoiser, sampler, latents_BCHW, whole, draw_noise=draw_noise).clean_BCHW


def reward_gradient(
    rewards_of: Callable[[Tensor, slice], Tensor], clean_BCHW: Tensor, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rewards (B,) of clean latents, and the gradient of the loss, minus their mean, at those latents.

    `rewards_of(clean, rows)` is given at most `batch_size` latents, and which of the batch they are.
    """
    batch = len(clean_BCHW)
    at_once = batch_size or batch
    rewards: list[Tensor] = []
    gradients: list[Tensor] = []
    for start in range(0, batch, at_once):
        rows = slice(start, min(start + at_once, batch))
        clean = clean_BCHW[rows].detach().requires_grad_()
        part = rewards_of(clean, rows)
        gradients += torch.autograd.grad(-part.sum() / batch, clean)
        rewards.append(part.detach())
    return torch.cat(rewards), torch.cat(gradients)


def sweep_back(
    denoiser: Denoiser,
    sampler: Sampler,
    rollout: Rollout,
    gradient_BCHW: Tensor,
    plan: Plan,
    *,
    penalty: Penalty | None = None,
    loss_scale: LossScale = unscaled,
    replay_batch: int = 1,
    weighting: Weighting = "chain",
) -> None:
    """Add d loss / d weights to the weights' `.grad`, one network graph at a time, from the clean end to the noise.

    `gradient_BCHW` is d loss / d clean latents. Only trained steps run the network again; an untrained step's output
    counts as a constant, so that the adjoint passes it by its linear part alone. Where the input is detached no step
    waits for another, and `replay_batch` of them run in one forward. `weighting` is that of `gradient_path`.
    """
    adjoint = gradient_BCHW
    waiting: dict[int, Tensor] = {}
    for leg in reversed(gradient_path(sampler, plan, weighting)):
        at_end, adjoint = adjoint, leg.a * adjoint
        for index, b in reversed(list(leg.outputs.items())):
            seen = rollout.inputs[index]
            if not seen.requires_grad and index not in rollout.graphs:
                waiting[index] = b * at_end
                continue
            scale = _pay(denoiser, sampler, rollout, {index: b * at_end}, penalty, loss_scale)
            if seen.grad is not None:
                adjoint = adjoint + plan.alpha * sampler.steps[index].scale * (seen.grad / scale)
    for start in range(0, len(waiting), replay_batch):
        owed = dict(list(waiting.items())[start : start + replay_batch])
        _pay(denoiser, sampler, rollout, owed, penalty, loss_scale)


def _pay(
    denoiser: Denoiser,
    sampler: Sampler,
    rollout: Rollout,
    owed: dict[int, Tensor],
    penalty: Penalty | None,
    loss_scale: LossScale,
) -> float:
    """Give the outputs of trained steps what they are owed, in one forward and backward for all of them.

    A step whose graph was kept comes alone and is not run again. The penalty may be larger than the rest by any factor,
    so the scale is that of their sum. Returns it: the gradient of what the network saw is left as large.
    """
    first = next(iter(owed))
    seen = torch.cat([rollout.inputs[index] for index in owed])
    timesteps = torch.cat([sampler.steps[index].timesteps(rollout.inputs[index]) for index in owed])
    output = rollout.graphs.pop(first) if first in rollout.graphs else denoiser(seen, timesteps)
    gradient = torch.cat(list(owed.values()))
    if penalty is not None:
        gradient = gradient + penalty(output.detach(), seen.detach(), timesteps)
    with loss_scale(gradient) as scale:
        output.backward(scale * gradient)
    return scale

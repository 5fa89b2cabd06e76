"""One update's gradient by any method: from noise to rewards and `.grad`, in the order of docs/method.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from drtune.config import ComputeSection, MethodConfig, Weighting
from drtune.methods.loss_scale import LossScale, unscaled
from drtune.methods.plans import Plan
from drtune.methods.sweep import (
    Denoiser,
    DrawNoise,
    Penalty,
    Rollout,
    reward_gradient,
    roll_out,
    sample_chain,
    sweep_back,
)
from drtune.models.sampler import Sampler


class BatchPenalty(Protocol):
    """A penalty that is the mean over a batch."""

    def __call__(self, output: Tensor, latents: Tensor, timesteps: Tensor, /) -> Tensor:
        """As `Penalty`."""

    def part(self, rows: slice, /) -> BatchPenalty:
        """The mean over some rows of the batch alone."""


@dataclass(frozen=True)
class Task:
    """What is supervised: a denoiser with its prompts, and what their pictures are worth."""

    denoiser: Denoiser
    sampler: Sampler
    rewards_of: Callable[[Tensor, slice], Tensor]
    """`rewards_of(clean_BCHW, rows)`: rewards of clean latents, `rows` of the batch."""
    draw_noise: DrawNoise
    compute: ComputeSection
    penalty: BatchPenalty | None = None
    gradient_scale: float = 1.0
    """Times this stands in `.grad`, the penalty's part too: the share of the update's batch."""
    loss_scale: LossScale = unscaled

    def part(self, rows: slice, batch: int) -> Task:
        """The same for some rows of the batch, with their share of the gradient."""
        first = rows.start
        return replace(
            self,
            denoiser=self.denoiser.part(rows),
            rewards_of=lambda clean, its: self.rewards_of(clean, slice(first + its.start, first + its.stop)),
            penalty=self.penalty.part(rows) if self.penalty else None,
            gradient_scale=self.gradient_scale * (rows.stop - rows.start) / batch,
        )


def supervise(task: Task, method: MethodConfig, plan: Plan) -> Tensor:
    """Rewards (B,) of one batch; d loss / d weights is added to the weights' `.grad`."""
    noise = task.sampler.initial_scale * task.draw_noise()
    if method.name == "direct_align":
        return _direct_align(task, noise, plan)
    if method.name == "draft_lv":
        return _draft_lv(task, noise, plan, method.renoised)
    rewards, _ = _sweep(task, noise, plan, method.weighting)
    return rewards


def _sweep(task: Task, latents_BCHW: Tensor, plan: Plan, weighting: Weighting = "chain") -> tuple[Tensor, Tensor]:
    """Rewards and clean latents of the whole sweep, from `latents_BCHW` at `plan.start`.

    All are rolled out together; what takes a graph goes through them a micro-batch at a time.
    """
    rollout = roll_out(
        task.denoiser,
        task.sampler,
        latents_BCHW,
        plan,
        draw_noise=task.draw_noise,
        keep_graphs=task.compute.keep_graphs,
    )
    batch = len(latents_BCHW)
    at_once = task.compute.micro_batch(batch)
    if at_once == batch:
        return _back(task, rollout, plan, weighting), rollout.clean_BCHW
    parts = [slice(start, min(start + at_once, batch)) for start in range(0, batch, at_once)]
    rewards = [_back(task.part(rows, batch), rollout.part(rows), plan, weighting) for rows in parts]
    return torch.cat(rewards), rollout.clean_BCHW


def _back(task: Task, rollout: Rollout, plan: Plan, weighting: Weighting) -> Tensor:
    """Rewards of what was rolled out; their gradient, swept back, is added to `.grad`."""
    compute = task.compute
    rewards, gradient = reward_gradient(task.rewards_of, rollout.clean_BCHW, compute.decode_batch_size)
    if rollout.counts_B is not None:
        gradient = rollout.counts_B.view(-1, 1, 1, 1) * gradient
    with task.loss_scale(gradient) as loss_scale:
        scale = loss_scale * task.gradient_scale
        sweep_back(
            task.denoiser,
            task.sampler,
            rollout,
            scale * gradient,
            plan,
            penalty=_scaled(task.penalty, scale),
            replay_batch=compute.replay_batch,
            weighting=weighting,
        )
    return rewards


def _scaled(penalty: Penalty | None, scale: float) -> Penalty | None:
    if penalty is None:
        return None
    return lambda output, latents, timesteps: scale * penalty(output, latents, timesteps)


def _draft_lv(task: Task, noise_BCHW: Tensor, plan: Plan, renoised: int) -> Tensor:
    """DRaFT-LV (Clark et al. 2023, arXiv 2309.17400, section 3): the last step, and n more of the image re-noised.

    The gradient is the mean over all 1 + n, which has a lower variance at n forwards more instead of n pictures more.
    """
    part = replace(task, gradient_scale=task.gradient_scale / (1 + renoised))
    rewards, clean = _sweep(part, noise_BCHW, plan)
    signal, noise = task.sampler.steps[plan.stop].level
    for copy in range(renoised):
        latents = signal * clean + noise * task.draw_noise("renoised", copy)
        _sweep(part, latents, replace(plan, start=plan.stop))
    return rewards


def _direct_align(task: Task, noise_BCHW: Tensor, plan: Plan) -> Tensor:
    """Direct-Align (SRPO, Shen et al. 2025, arXiv 2509.06942): re-noise with known noise, denoise a step, take it off.

        x0 = (x_next - noise_next * known) / signal_next

    The true noise stands in for the predicted one, so even a step from far out gives a sharp picture to score. That is
    one step of a sampler of its own, with x0 but for a constant at its end.
    """
    index = plan.trained[0]
    step, known = task.sampler.steps[index], task.draw_noise("known")
    clean = sample_chain(task.denoiser, task.sampler, noise_BCHW, draw_noise=task.draw_noise)
    signal, noise = step.level
    latents = signal * clean + noise * known

    (a,), (b,) = (weights.values() for weights in task.sampler.leap((index,), index + 1))
    signal_next, noise_next = task.sampler.steps[index + 1].level
    recovering = replace(step, move=(a / signal_next, b / signal_next), fresh=0.0)
    taken_off = noise_next / signal_next * known
    rewards, _ = _sweep(
        replace(
            task,
            sampler=Sampler((recovering,), initial_scale=1.0),
            rewards_of=lambda recovered, rows: task.rewards_of(recovered - taken_off[rows], rows),
        ),
        latents,
        Plan(stop=0, trained=(0,), alpha=0.0),
    )
    return rewards

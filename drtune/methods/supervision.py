"""One update's gradient by any method: from noise to rewards and `.grad`, in the order of docs/method.md."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from drtune.config import ComputeSection, MethodConfig
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
    rewards_of: Callable[..., Tensor]
    """`rewards_of(clean_BCHW, rows)`: rewards of clean latents, `rows` of the batch. Of SRPO alone it is also asked for
    the `opposite`, and for a `surplus` on the prompt that is sought, as `WeightedSum`."""
    draw_noise: DrawNoise
    compute: ComputeSection
    penalty: BatchPenalty | None = None
    gradient_scale: float = 1.0
    """Times this stands in `.grad`, the penalty's part too: the share of the update's batch."""
    loss_scale: LossScale = unscaled
    unrecorded: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within, `rewards_of` says what it would, and takes no note of it for the log."""
    real_BCHW: Tensor | None = None
    """Latents of real pictures, from which Direct-Align and SRPO start in place of sampled ones."""

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
    match method.name:
        case "direct_align":
            return _direct_align(task, noise, plan, method)
        case "srpo":
            return _srpo(task, noise, plan, method)
        case "draft_lv":
            return _draft_lv(task, noise, plan, method)
    rewards, _ = _out_and_back(task, noise, plan, method)
    return rewards


def _out_and_back(task: Task, latents_BCHW: Tensor, plan: Plan, method: MethodConfig) -> tuple[Tensor, Tensor]:
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
        return _back(task, rollout, plan, method), rollout.clean_BCHW
    parts = [slice(start, min(start + at_once, batch)) for start in range(0, batch, at_once)]
    rewards = [_back(task.part(rows, batch), rollout.part(rows), plan, method) for rows in parts]
    return torch.cat(rewards), rollout.clean_BCHW


def _back(task: Task, rollout: Rollout, plan: Plan, method: MethodConfig) -> Tensor:
    """Rewards of what was rolled out; their gradient, swept back, is added to `.grad`."""
    rewards, gradient = _reward_gradient(task, rollout.clean_BCHW, method.rho)
    if rollout.counts_B is not None:
        gradient = rollout.counts_B.view(-1, 1, 1, 1) * gradient
    sweep_back(
        task.denoiser,
        task.sampler,
        rollout,
        task.gradient_scale * gradient,
        plan,
        penalty=_scaled(task.penalty, task.gradient_scale),
        loss_scale=task.loss_scale,
        replay_batch=task.compute.replay_batch,
        weighting=method.weighting,
    )
    return rewards


def _reward_gradient(task: Task, clean_BCHW: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Rewards of clean latents, and the loss's gradient there, or where it has led them against the reward.

    The image half of RSA-FT (Kim and Sim 2026, arXiv 2603.21175). How the paper sizes the move we could not read: here
    its root mean square over a picture's latents is `rho`.
    """
    at_once = task.compute.decode_batch_size
    rewards, gradient = reward_gradient(task.rewards_of, clean_BCHW, at_once)
    if not rho:
        return rewards, gradient
    size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=torch.finfo(gradient.dtype).tiny)
    with task.unrecorded():
        _, gradient = reward_gradient(task.rewards_of, clean_BCHW + rho * (gradient / size), at_once)
    return rewards, gradient


def _scaled(penalty: Penalty | None, scale: float) -> Penalty | None:
    if penalty is None:
        return None
    return lambda output, latents, timesteps: scale * penalty(output, latents, timesteps)


def _draft_lv(task: Task, noise_BCHW: Tensor, plan: Plan, method: MethodConfig) -> Tensor:
    """DRaFT-LV (Clark et al. 2023, arXiv 2309.17400, section 3): the last step, and n more of the image re-noised.

    The gradient is the mean over all 1 + n, which has a lower variance at n forwards more instead of n pictures more.
    """
    part = replace(task, gradient_scale=task.gradient_scale / (1 + method.renoised))
    rewards, clean = _out_and_back(part, noise_BCHW, plan, method)
    signal, noise = task.sampler.steps[plan.stop].level
    for copy in range(method.renoised):
        latents = signal * clean + noise * task.draw_noise("renoised", copy)
        with task.unrecorded():
            _out_and_back(part, latents, replace(plan, start=plan.stop), method)
    return rewards


def _direct_align(task: Task, noise_BCHW: Tensor, plan: Plan, method: MethodConfig) -> Tensor:
    """Direct-Align (Shen et al. 2025, arXiv 2509.06942): re-noise with known noise, denoise a step, take it off.

    The gradients of several steps add up, each with its discount.
    """
    clean = _finished(task, noise_BCHW)
    rewards = [_recover(task, clean, (step, step + 1), gain, method) for step, gain in plan.gain_of.items()]
    return torch.stack(rewards).mean(0)


def _srpo(task: Task, noise_BCHW: Tensor, plan: Plan, method: MethodConfig) -> Tensor:
    """SRPO (Shen et al. 2025, arXiv 2509.06942): Direct-Align, and for the reward's opposite a step back to its end.

    The gradient is the mean of the two, as in its code.
    """
    clean = _finished(task, noise_BCHW)
    half, rewards = replace(task, gradient_scale=task.gradient_scale / 2), []
    for (step, gain), (praise, blame) in zip(plan.gain_of.items(), plan.surpluses, strict=True):
        praised = replace(half, rewards_of=partial(task.rewards_of, surplus=praise))
        rewards.append(_recover(praised, clean, (step, step + 1), gain, method))
        blamed = replace(half, rewards_of=partial(task.rewards_of, opposite=True, surplus=blame))
        with task.unrecorded():
            _recover(blamed, clean, (step + 2, step + 1), gain, method)
    return torch.stack(rewards).mean(0)


def _finished(task: Task, noise_BCHW: Tensor) -> Tensor:
    """Clean latents of real pictures, if there are some, or of sampled ones."""
    if task.real_BCHW is not None:
        return task.real_BCHW
    return sample_chain(task.denoiser, task.sampler, noise_BCHW, draw_noise=task.draw_noise)


def _recover(task: Task, clean_BCHW: Tensor, way: tuple[int, int], gain: float, method: MethodConfig) -> Tensor:
    """Rewards of what a step `way`, from the noise of one to that of another, makes of clean latents and known noise.

        x0 = (x_end - noise_end * known) / signal_end

    The true noise stands in for the predicted one, so even a step from far out gives a sharp picture to score. It is
    that from which the picture was sampled, if it was. All is one step of a sampler of its own, with x0 but for a
    constant at its end; what its output is owed counts `gain` times.
    """
    (start, end), known = way, task.draw_noise()
    step = task.sampler.steps[start]
    signal, noise = step.level
    (a,), (b,) = (weights.values() for weights in task.sampler.leap((start,), end))
    signal_end, noise_end = task.sampler.steps[end].level
    recovering = replace(step, move=(a / signal_end, b / signal_end), fresh=0.0)
    taken_off = noise_end / signal_end * known
    rewards, _ = _out_and_back(
        replace(
            task,
            sampler=Sampler((recovering,), initial_scale=1.0),
            rewards_of=lambda recovered, rows: task.rewards_of(recovered - taken_off[rows], rows),
        ),
        signal * clean_BCHW + noise * known,
        Plan(stop=0, trained=(0,), alpha=0.0, gains=(gain,)),
        method,
    )
    return rewards

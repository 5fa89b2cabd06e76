"""Every method as its paper writes it: one big graph from the weights to the loss, differentiated by autograd.

Nothing of the sweep is used here; the sampler's numbers are (tests/unit/test_sampling.py holds them against diffusers).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from drtune.config import MethodConfig
from drtune.methods.plans import Plan
from drtune.methods.supervision import Task
from drtune.models.sampler import Sampler

Run = Callable[[int, Tensor], Tensor]
"""The network's output at a step for some latents."""


def loss_of(task: Task, method: MethodConfig, plan: Plan, price: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Minus the mean reward, plus the `price` of each trained output, for what it saw there and when."""
    prices: list[Tensor] = []

    def run(index: int, latents: Tensor) -> Tensor:
        step = task.sampler.steps[index]
        seen = step.scale * latents
        output = task.denoiser(seen, step.timesteps(seen))
        if torch.is_grad_enabled():
            prices.append(price(output, seen, step.timesteps(seen)))
        return output

    noise = task.sampler.initial_scale * task.draw_noise()
    match method.name:
        case "leapalign":
            finished = [_leapalign(task.sampler, run, noise, plan, task)]
        case "draft_lv":
            finished = _draft_lv(task, run, noise, method.renoised)
        case "direct_align":
            finished = [_direct_align(task, run, noise, plan)]
        case _:
            finished = [_chain(task, run, noise, plan)[-1]]
    everything = slice(0, len(noise))
    losses = [-task.rewards_of(clean, everything).mean() for clean in finished]
    return (torch.stack(losses).sum() + torch.stack(prices).sum()) / len(losses)


def _attached(latents: Tensor, alpha: float) -> Tensor:
    """The same value, with alpha of the gradient."""
    return alpha * latents + (1 - alpha) * latents.detach()


def _chain(task: Task, run: Run, latents: Tensor, plan: Plan) -> list[Tensor]:
    """Latents before each step, and the clean ones."""
    steps, trail = task.sampler.steps, [latents]
    for index in range(plan.stop + 1):
        with torch.set_grad_enabled(index in plan.trained):
            output = run(index, _attached(latents, plan.alpha))
        if index == plan.stop < len(steps) - 1:
            a0, b0 = steps[index].jump
            latents = a0 * latents + b0 * output
        else:
            a, b = steps[index].move
            latents = a * latents + b * output + steps[index].fresh * task.draw_noise("fresh", index)
        trail.append(latents)
    return trail


def _predicted(sampler: Sampler, index: int, latents: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and epsilon, as predicted at a step."""
    (a0, b0), (signal, noise) = sampler.steps[index].jump, sampler.steps[index].level
    clean = a0 * latents + b0 * output
    return clean, (latents - signal * clean) / noise


def _leapalign(sampler: Sampler, run: Run, noise: Tensor, plan: Plan, task: Task) -> Tensor:
    """Two leaps; each end takes the value of the real trajectory and the gradient of the leap."""
    first, second = plan.trained
    whole = Plan(stop=len(sampler.steps) - 1, trained=(), alpha=0.0)
    real = _chain(task, run, noise, whole)
    clean, epsilon = _predicted(sampler, first, real[first], run(first, real[first]))
    signal, level = sampler.steps[second].level
    landed = signal * clean + level * epsilon
    middle = real[second] + landed - landed.detach()
    clean, _ = _predicted(sampler, second, middle, run(second, _attached(middle, plan.alpha)))
    return real[-1] + clean - clean.detach()


def _draft_lv(task: Task, run: Run, noise: Tensor, renoised: int) -> list[Tensor]:
    """The last step of the chain, and of the finished picture re-noised n times."""
    last = len(task.sampler.steps) - 1
    trail = _chain(task, run, noise, Plan(stop=last, trained=(last,), alpha=1.0))
    step, finished = task.sampler.steps[last], [trail[-1]]
    (a, b), (signal, level) = step.move, step.level
    for copy in range(renoised):
        latents = signal * trail[-1].detach() + level * task.draw_noise("renoised", copy)
        finished.append(a * latents + b * run(last, latents) + step.fresh * task.draw_noise("fresh", last))
    return finished


def _direct_align(task: Task, run: Run, noise: Tensor, plan: Plan) -> Tensor:
    """Known noise into the finished picture, a step of denoising, and what is known taken off."""
    sampler, index = task.sampler, plan.trained[0]
    whole = Plan(stop=len(sampler.steps) - 1, trained=(), alpha=0.0)
    real, known = _chain(task, run, noise, whole)[-1], task.draw_noise("known")
    (signal, level), (next_signal, next_level) = sampler.steps[index].level, sampler.steps[index + 1].level
    latents = signal * real + level * known
    clean, epsilon = _predicted(sampler, index, latents, run(index, latents))
    return (next_signal * clean + next_level * epsilon - next_level * known) / next_signal

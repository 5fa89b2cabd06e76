"""Every method as its paper writes it: one big graph from the weights to the loss, differentiated by autograd.

Nothing of the sweep is used here; the sampler's numbers are (tests/unit/test_sampling.py holds them against diffusers).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

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
    counts = torch.ones(len(noise), dtype=noise.dtype)
    match method.name:
        case "leapalign":
            finished, counts = _leapalign(task, run, noise, plan)
        case "flowbp_sparse":
            finished = [_flowbp(task, run, noise, plan, bridge=None)]
        case "flowbp_bridge":
            finished = [_flowbp(task, run, noise, plan, bridge=plan.attached[0])]
        case "flowbp_lagrange":
            finished, counts = _lagrange(task, run, noise, plan)
        case "draft_lv":
            finished = _draft_lv(task, run, noise, method.renoised)
        case "direct_align" | "srpo":
            return _loss_of_recovered(task, run, noise, method, plan, prices)
        case _:
            finished = [_chain(task, run, noise, plan)[-1]]
    losses = [-(counts * _worth(task.rewards_of, clean, method.rho)).mean() for clean in finished]
    return (torch.stack(losses).sum() + torch.stack(prices).sum()) / len(losses)


def _loss_of_recovered(
    task: Task, run: Run, noise: Tensor, method: MethodConfig, plan: Plan, prices: list[Tensor]
) -> Tensor:
    """Discounted sums over the steps of what is recovered there; of SRPO the mean over both directions."""
    real = _real(task, run, noise)[-1] if task.real_BCHW is None else task.real_BCHW
    both, losses = method.name == "srpo", []
    for place, step in enumerate(plan.trained):
        discount = method.discount ** (step - (len(task.sampler.steps) - 1 - both - method.early_stop))
        ways: list[tuple[int, dict[str, Any]]] = [(step, {})]
        if both:
            praise, blame = plan.surpluses[place]
            ways = [(step, {"surplus": praise}), (step + 2, {"opposite": True, "surplus": blame})]
        for start, sides in ways:
            clean = _recovered(task, run, real, start, step + 1)
            losses.append(-discount * _worth(partial(task.rewards_of, **sides), clean, method.rho).mean())
    return (torch.stack(losses).sum() + torch.stack(prices).sum()) / (1 + both)


def _worth(rewards_of: Callable[..., Tensor], clean: Tensor, rho: float) -> Tensor:
    """Rewards of the latents a bit down the slope of what is maximised, which counts as a constant move."""
    everything = slice(0, len(clean))
    if not rho:
        return rewards_of(clean, everything)
    at = clean.detach().requires_grad_()
    (slope,) = torch.autograd.grad(rewards_of(at, everything).sum(), at)
    return rewards_of(clean - rho * slope / slope.square().mean((1, 2, 3), keepdim=True).sqrt(), everything)


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


def _leapalign(task: Task, run: Run, noise: Tensor, plan: Plan) -> tuple[list[Tensor], Tensor]:
    """Two leaps; each end takes the value of the real trajectory and the gradient of the leap."""
    sampler, (first, second) = task.sampler, plan.trained
    real = _real(task, run, noise)
    clean, epsilon = _predicted(sampler, first, real[first], run(first, real[first]))
    signal, level = sampler.steps[second].level
    landed = signal * clean + level * epsilon
    middle = real[second] + landed - landed.detach()
    clean, _ = _predicted(sampler, second, middle, run(second, _attached(middle, plan.alpha)))
    counts = _counts([(landed, real[second]), (clean, real[-1])], plan.tau)
    return [real[-1] + clean - clean.detach()], counts


def _real(task: Task, run: Run, noise: Tensor) -> list[Tensor]:
    return _chain(task, run, noise, Plan(stop=len(task.sampler.steps) - 1, trained=(), alpha=0.0))


def _counts(misses: list[tuple[Tensor, Tensor]], tau: float) -> Tensor:
    """LeapAlign's weight of each picture by how near its leaps come to the real latents."""
    if not tau:
        return torch.ones(len(misses[0][0]), dtype=misses[0][0].dtype)
    distances = [(landed - real).detach().abs().mean((1, 2, 3)).clip(min=tau) for landed, real in misses]
    return 1 / torch.stack(distances).sum(0)


def _flowbp(task: Task, run: Run, noise: Tensor, plan: Plan, bridge: int | None) -> Tensor:
    """The real chain put together again from its outputs, of which the active ones are run once more with a graph."""
    steps, real = task.sampler.steps, _real(task, run, noise)
    weights = [abs(steps[at].move[1] * prod(step.move[0] for step in steps[at + 1 :])) for at in range(len(steps))]
    factor = 1 + plan.rescale * (sum(weights) / sum(weights[at] for at in plan.trained) - 1)
    latents = noise
    for index, step in enumerate(steps):
        seen = _attached(latents, plan.alpha) if index == bridge else real[index].detach()
        with torch.set_grad_enabled(index in plan.trained):
            output = _with_gradient(run(index, seen), factor)
        a, b = step.move
        latents = a * latents + b * output + step.fresh * task.draw_noise("fresh", index)
    return latents


def _with_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, with `factor` times the gradient."""
    return value.detach() + factor * (value - value.detach())


def _lagrange(task: Task, run: Run, noise: Tensor, plan: Plan) -> tuple[list[Tensor], Tensor]:
    """Two leaps, each along the parabola through what is predicted at three of its steps."""
    sampler, real = task.sampler, _real(task, run, noise)
    position, misses = real[plan.leaps[0][0]], []
    for leap, target in zip(plan.leaps, (plan.leaps[1][0], None), strict=True):
        start, active = leap[0], [index for index in leap if index in plan.trained]
        levels = [sampler.steps[index].level for index in leap]
        signal, level = (1.0, 0.0) if target is None else sampler.steps[target].level
        if sampler.is_flow:
            points, end, slopes = [noise for _, noise in levels], level, [1.0] * len(leap)
        else:  # of epsilon = (x - signal (a0 x + b0 out)) / noise
            points, end = [noise / signal for signal, noise in levels], level / signal
            slopes = [-sampler.steps[index].jump[1] / point for index, point in zip(leap, points, strict=True)]
        weights = _moments(points, end)
        sizes = {index: abs(w * slope) for index, w, slope in zip(leap, weights, slopes, strict=True)}
        factor = 1 + plan.rescale * (sum(sizes.values()) / sum(sizes[index] for index in active) - 1)
        moved = torch.zeros_like(noise)
        for index, weight in zip(leap, weights, strict=True):
            at = position if index == start else real[index]
            with torch.set_grad_enabled(index in active):
                output = run(index, _attached(at, plan.alpha if index in plan.attached else 0.0))
            output = _with_gradient(output, factor * (1.0 if index == start else 0.25))
            moved = moved + weight * (output if sampler.is_flow else _predicted(sampler, index, at, output)[1])
        start_signal = sampler.steps[start].level[0]
        landed = position + moved if sampler.is_flow else signal * (position / start_signal + moved)
        landing = real[-1] if target is None else real[target]
        misses.append((landed, landing))
        position = landing + landed - landed.detach()
    return [position], _counts(misses, plan.tau)


def _moments(points: list[float], end: float) -> list[float]:
    """Weights that integrate 1, x, x^2, ... exactly from the first point to `end`."""
    powers = range(len(points))
    matrix = torch.tensor([[point**power for point in points] for power in powers], dtype=torch.float64)
    exact = [(end ** (power + 1) - points[0] ** (power + 1)) / (power + 1) for power in powers]
    weights: list[float] = torch.linalg.solve(matrix, torch.tensor(exact, dtype=torch.float64)).tolist()
    return weights


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


def _recovered(task: Task, run: Run, real: Tensor, start: int, end: int) -> Tensor:
    """The first noise into the finished picture, a step of denoising or inversion, and what is known taken off."""
    sampler, known = task.sampler, task.draw_noise()
    (signal, level), (end_signal, end_level) = sampler.steps[start].level, sampler.steps[end].level
    latents = signal * real + level * known
    clean, epsilon = _predicted(sampler, start, latents, run(start, latents))
    return (end_signal * clean + end_level * epsilon - end_level * known) / end_signal

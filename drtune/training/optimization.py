"""The optimizer: AdamW, its learning rate as a function of the update's number, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from drtune.config import OptimizerConfig
from drtune.errors import UserError


class DivergenceError(UserError):
    """Training cannot go on: an update would have spoilt the weights, and was not made."""


class SpoiltWeightsError(DivergenceError):
    """Training cannot go on: the weights are no numbers any more."""


def make_optimizer(weights: Mapping[str, Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over the weights that train."""
    if config.eight_bit:
        from drtune.training.eight_bit import AdamW8bit

        return AdamW8bit(weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of the `step`-th of `num_steps` updates, from 1: a linear warm-up, then constant or a cosine.

    The cosine begins at the full rate with the first update after the warm-up and would reach zero one update after the
    last, so that none is made for nothing.

    >>> learning_rate(OptimizerConfig(learning_rate=1e-3, warmup_steps=10), step=5, num_steps=100)
    0.0005
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps - 1) / (num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def mean_decay(decay: float, step: int) -> float:
    """Decay of the weights' running mean at the `step`-th update, from 1: min(decay, (1 + n) / (10 + n)), n before it.

    A constant decay would leave most of the start in the mean of a short run. The rule is that of TensorFlow's
    `ExponentialMovingAverage` with `num_updates`, and of diffusers' `EMAModel` without its power.

    >>> [round(mean_decay(0.995, step), 3) for step in (1, 2, 100, 10_000)]
    [0.1, 0.182, 0.917, 0.995]
    """
    return min(decay, step / (step + 9))


@contextmanager
def moved_against(weights: Iterable[Tensor], rho: float) -> Iterator[None]:
    """Within, weights are where the loss is the highest up to a distance of `rho`, to first order; gradients are gone.

    Afterwards they are bit for bit what they were: sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412,
    equation 2), whose update is that of the gradient found there.
    """
    kept = _move(weights, rho)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


@torch.no_grad()
def _move(weights: Iterable[Tensor], rho: float) -> list[tuple[Tensor, Tensor]]:
    """Each weight that has a gradient is moved along it, which is then freed; returns it with what it was."""
    slopes = [(weight, weight.grad) for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm([slope for _, slope in slopes]).item()
    kept = [(weight, weight.clone()) for weight, _ in slopes]
    for weight, slope in slopes:
        weight.add_(slope, alpha=rho / norm if norm else 0)
        weight.grad = None
    return kept


def check_finite(step: int, reward: float, grad_norm: float, config: OptimizerConfig) -> None:
    """Refuse an update that would spoil the weights, before the optimizer moves.

    Raises:
        DivergenceError: reward or gradient is infinite or not a number, or the gradient has exploded.
    """
    if not (math.isfinite(reward) and grad_norm <= config.refused_grad_norm):
        raise DivergenceError(
            f"update {step}: reward {reward:g}, gradient norm {grad_norm:g} (optimizer.refused_grad_norm="
            f"{config.refused_grad_norm:g}); the weights stay as they were after update {step - 1}: start again with a "
            f"lower optimizer.learning_rate than {config.learning_rate:g}, a longer optimizer.warmup_steps than "
            f"{config.warmup_steps}, or another compute.precision"
        )


def check_weights(step: int, weights: Iterable[Tensor], config: OptimizerConfig) -> None:
    """Refuse to go on from weights that the optimizer has just spoilt. What was saved before is of good ones.

    Raises:
        SpoiltWeightsError: their norm is infinite or not a number.
    """
    norm = torch.nn.utils.get_total_norm(weights).item()
    if not math.isfinite(norm):
        raise SpoiltWeightsError(
            f"update {step}: the weights have the norm {norm:g}; start again with a lower optimizer.learning_rate than "
            f"{config.learning_rate:g}"
        )

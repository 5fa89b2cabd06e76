"""A method is a plan for the sweep: where sampling stops, which steps train, what the gradient passes through.

docs/method.md has the table of all methods with their papers and costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from drtune.config import MethodConfig


@dataclass(frozen=True)
class Plan:
    """What one update does. Steps count from 0, the noisiest, to T - 1.

    >>> Plan(stop=10, trained=(1, 4, 7, 10), alpha=0.0)
    """

    stop: int
    """The last step that runs; before T - 1, the clean latents are predicted from there in one jump."""
    trained: tuple[int, ...]
    """Steps whose output carries gradient to the weights, in rising order, none beyond `stop`."""
    alpha: float
    """How much of the gradient passes through the network's input: 0 detaches it, 1 is full back-propagation."""
    start: int = 0
    """The first step that runs."""
    leaps: bool = False
    """The gradient goes from one trained step to the next, and from the last to the end, in one leap each."""


def draw_plan(method: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """The plan of one update: `num_steps` is T, the randomness comes from `generator` alone."""
    last = num_steps - 1
    match method.name:
        case "drtune":
            executed = num_steps - _draw(method.early_stop, generator)
            return Plan(executed - 1, _spread(executed, method.trained_steps, generator), _alpha(method, 0.0))
        case "refl":
            # Xu et al. 2023 (arXiv 2304.05977), algorithm 1: one step of a late range, and the jump from there.
            stop = last - _draw(method.early_stop, generator)
            return Plan(stop, (stop,), _alpha(method, 0.0))
        case "draft_k":
            # Clark et al. 2023 (arXiv 2309.17400), section 3: truncated to the last K steps.
            return Plan(last, _last(method.trained_steps, num_steps), _alpha(method, 1.0))
        case "draft_lv":
            return Plan(last, (last,), _alpha(method, 1.0))
        case "alignprop":
            # Prabhudesai et al. 2023 (arXiv 2310.03739), section 4: truncated at a random depth.
            return Plan(last, _last(1 + _draw(method.trained_steps, generator), num_steps), _alpha(method, 1.0))
        case "full":
            return Plan(last, tuple(range(num_steps)), _alpha(method, 1.0))
        case "leapalign":
            # LeapAlign (arXiv 2604.15311): two random leaps, the gradient that is nested in both scaled down.
            first, second = sorted(torch.randperm(num_steps, generator=generator)[:2].tolist())
            return Plan(last, (first, second), _alpha(method, 0.3), leaps=True)
        case "direct_align":
            # Before the last step, whose end holds no noise that could be known.
            index = last - 1 - _draw(method.early_stop, generator)
            return Plan(index, (index,), _alpha(method, 0.0), start=index)


def _alpha(method: MethodConfig, published: float) -> float:
    return published if method.alpha is None else method.alpha


def _spread(executed: int, num_trained: int, generator: torch.Generator) -> tuple[int, ...]:
    """DRTune (Wu et al. 2024, arXiv 2405.00760): K equally spaced steps with a random offset.

    They are placed inside the prefix that runs, so that every update trains K steps however early it stops.
    """
    stride = executed // num_trained
    offset = _draw(executed - (num_trained - 1) * stride, generator)
    return tuple(offset + index * stride for index in range(num_trained))


def _last(count: int, num_steps: int) -> tuple[int, ...]:
    return tuple(range(num_steps - count, num_steps))


def _draw(count: int, generator: torch.Generator) -> int:
    """One of 0 .. count - 1."""
    return int(torch.randint(count, (), generator=generator))

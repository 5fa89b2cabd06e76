"""A method is a plan for the sweep: where sampling stops, which steps train, what the gradient passes through."""

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


def draw_plan(config: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """The plan of one update: `num_steps` is T, the randomness comes from `generator` alone."""
    if config.name == "full":
        return Plan(stop=num_steps - 1, trained=tuple(range(num_steps)), alpha=1.0)
    return _drtune(num_steps, config.trained_steps, config.early_stop, generator)


def _drtune(num_steps: int, num_trained: int, early_stop: int, generator: torch.Generator) -> Plan:
    """DRTune: K equally spaced steps with a random offset, input detached, a random early stop.

    Wu et al. 2024 (arXiv 2405.00760): t_min ~ U{1..m} counts steps from the clean end. The trained steps are placed
    inside the prefix that runs, so that every update trains K steps however early it stops.
    """
    executed = num_steps - _draw(early_stop, generator)
    stride = executed // num_trained
    offset = _draw(executed - (num_trained - 1) * stride, generator)
    trained = tuple(offset + index * stride for index in range(num_trained))
    return Plan(stop=executed - 1, trained=trained, alpha=0.0)


def _draw(count: int, generator: torch.Generator) -> int:
    """One of 0 .. count - 1."""
    return int(torch.randint(count, (), generator=generator))

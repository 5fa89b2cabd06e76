"""Samples: the same held-out prompts from the same noise each time, sampled as users will, looked at and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drtune.config import Config
from drtune.methods.draws import Draws
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.sweep import sample
from drtune.models.base import Base, EncodedPrompts
from drtune.models.loading import DTYPES
from drtune.rewards import load_reward

NUM_SAMPLES = 16


class Samples:
    """The first held-out prompts at deployment settings, and the held-out reward of their pictures, if there is one."""

    def __init__(self, base: Base, texts: Sequence[str], config: Config, draws: Draws) -> None:
        self.base, self.texts, self.settings, self.draws = base, texts[:NUM_SAMPLES], config.evaluation, draws
        self.arithmetic = DTYPES[config.compute.precision]
        self.sampler = base.sampler(self.settings.sampler)
        self.conditions = EncodedPrompts(base, dict(enumerate(self.texts)))
        self.negative = base.encode_negative(self.settings.sampler.negative_prompt)
        self.reward = (
            load_reward(config.held_out.reward, antialias=config.reward_antialias) if config.held_out else None
        )

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], one of each prompt, by the network as it is now."""
        at_once = self.settings.batch_size
        return torch.cat(
            [
                self._draw(range(start, min(start + at_once, len(self.texts))))
                for start in range(0, len(self.texts), at_once)
            ]
        )

    def _draw(self, rows: range) -> Tensor:
        denoiser = GuidedDenoiser(
            self.base, self.conditions[rows], self.negative, self.settings.sampler, arithmetic=self.arithmetic
        )
        noise = self.draws.noise(0, rows).to(self.base.device)  # updates count from 1 and so have other noise
        return self.base.decode(sample(denoiser, self.sampler, self.sampler.initial_scale * noise))

    @torch.no_grad()
    def score(self, images_NCHW: Tensor) -> Tensor | None:
        """Mean of the held-out reward over the pictures, if there is one."""
        return self.reward(images_NCHW, self.texts).mean() if self.reward else None


def last_passed(held_out: Mapping[int, float], max_drop: float) -> int:
    """The last update, of those that were checked, whose held-out reward is at most `max_drop` below the base's.

    `held_out` is the reward by update, with 0 for the base, which passes. A reward that is not a number does not.

    >>> last_passed({0: 0.5, 20: 0.48, 40: 0.3}, max_drop=0.1)
    20
    """
    return max(step for step, value in held_out.items() if step == 0 or value >= held_out[0] - max_drop)

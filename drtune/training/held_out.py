"""Held-out pictures: the evaluation's own first pictures, drawn on the way, to be looked at and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drtune.config import Config
from drtune.files.images import to_pil, to_tensor
from drtune.models.base import Base, EncodedPrompts
from drtune.models.drawing import draw
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import choose_prompts, shots_of
from drtune.rewards import load_reward, score_finished

NUM_PICTURES = 16


class HeldOutPictures:
    """The first picture of each of the evaluation's first prompts, as the evaluation draws it, and what it is worth.

    So the check that ends a run early sees what the gate will see of the same weights.
    """

    def __init__(self, base: Base, prompts: Sequence[Prompt], config: Config) -> None:
        shots = shots_of(choose_prompts(prompts, NUM_PICTURES), pictures_per_prompt=1)
        self.base, self.settings = base, config.evaluation
        self.texts = [shot.prompt.text for shot in shots]
        self.seeds = [shot.noise_seed(config.evaluation.seed) for shot in shots]
        self.conditions = EncodedPrompts(base, dict(enumerate(self.texts)))
        self.negative = base.encode_negative(config.evaluation.sampler.negative_prompt)
        self._reward = (
            load_reward(config.held_out.reward, antialias=config.reward_antialias) if config.held_out else None
        )

    def draw(self) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], one of each prompt, by the network as it is now."""
        sampler, at_once = self.settings.sampler, self.settings.batch_size
        rows = [range(len(self.texts))[start : start + at_once] for start in range(0, len(self.texts), at_once)]
        return torch.cat(
            [
                draw(
                    self.base,
                    self.conditions[batch],
                    self.negative,
                    [self.seeds[row] for row in batch],
                    steps=sampler.steps,
                    guidance_scale=sampler.guidance_scale,
                )
                for batch in rows
            ]
        )

    @torch.no_grad()
    def mean_reward(self, images_NCHW: Tensor) -> Tensor | None:
        """Mean of the held-out reward over the pictures, if there is one, as the evaluation scores their files."""
        if self._reward is None:
            return None
        pictures = to_pil(images_NCHW)
        return score_finished(self._reward, pictures, to_tensor(pictures).to(images_NCHW.device), self.texts).mean()


def last_passed(held_out: Mapping[int, float], max_drop: float) -> int:
    """The last update, of those that were checked, whose held-out reward is at most `max_drop` below the base's.

    `held_out` is the reward by update, with 0 for the base, which passes. A reward that is not a number does not.

    >>> last_passed({0: 0.5, 20: 0.48, 40: 0.3}, max_drop=0.1)
    20
    """
    return max(step for step, value in held_out.items() if step == 0 or value >= held_out[0] - max_drop)

"""Samples: the evaluation's own first pictures, or your prompts', drawn on the way, to be looked at and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from drtune.config import Config
from drtune.errors import UserError
from drtune.files.images import to_pil, to_tensor
from drtune.models.base import Base, EncodedPrompts
from drtune.models.drawing import draw
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import choose_prompts, shots_of
from drtune.rewards import Reward, reward_of, score_finished

NUM_PICTURES = 16


class Samples:
    """The first picture of each of the evaluation's first prompts, as the evaluation draws it, and what it is worth.

    So the check that ends a run early sees what the gate will see of the same weights. Prompts of the user's own are
    drawn in the same way.

    Args:
        base: what draws.
        prompts: the held-out ones.
        config: the run's.
        trained: the rewards that it is tuned on, in the order of the configuration.

    Raises:
        UserError: the base takes another number of steps.
    """

    def __init__(self, base: Base, prompts: Sequence[Prompt], config: Config, trained: Sequence[Reward]) -> None:
        base.check_steps(config.evaluation.sampler.steps)
        own = [Prompt(text=text, category="") for text in config.sample_prompts or ()]
        shots = shots_of(own or choose_prompts(prompts, NUM_PICTURES), pictures_per_prompt=1)
        self.base, self.config, self.settings = base, config, config.evaluation
        self.texts = [shot.prompt.text for shot in shots]
        self.seeds = [shot.noise_seed(config.evaluation.seed) for shot in shots]
        self.conditions = EncodedPrompts(base, dict(enumerate(self.texts)))
        self.negative = base.encode_negative(config.evaluation.sampler.negative_prompt)
        self._loaded = dict(zip(config.rewards, trained, strict=True))
        if config.held_out and config.held_out.reward not in self._loaded:
            self._loaded[config.held_out.reward] = reward_of(config, config.held_out.reward)

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
                    base_steps=sampler.base_steps,
                )
                for batch in rows
            ]
        )

    def held_out_reward(self, images_NCHW: Tensor) -> Tensor | None:
        """Mean of the held-out reward over the pictures, if there is one, as the evaluation scores their files."""
        held_out = self.config.held_out
        return self._mean(self._loaded[held_out.reward], *_finished(images_NCHW)) if held_out else None

    def mean_rewards(self, images_NCHW: Tensor) -> dict[str, float]:
        """Mean over the pictures by reward: of those that the run uses, and of those that its evaluation measures.

        The latter are loaded at the first call, and judge on the CPU: the GPU's memory is for the update. One whose
        weights are not to be had is left out, and told.
        """
        pictures, finished_NCHW = _finished(images_NCHW)
        means = {name: self._mean(reward, pictures, finished_NCHW) for name, reward in self._loaded.items()}
        means |= {name: self._mean(reward, pictures, finished_NCHW.cpu()) for name, reward in self._beside.items()}
        return {name: mean.item() for name, mean in means.items() if mean.isfinite()}

    @cached_property
    def _beside(self) -> dict[str, Reward]:
        rewards = {}
        for name in self.config.reward_names:
            if name not in self._loaded:
                try:
                    rewards[name] = reward_of(self.config, name)
                except UserError as error:
                    print(f"train: {name} does not judge the samples: {error}", flush=True)
        return rewards

    @torch.no_grad()
    def _mean(self, reward: Reward, pictures: Sequence[Image.Image], images_NCHW: Tensor) -> Tensor:
        return score_finished(reward, pictures, images_NCHW, self.texts).mean()


def _finished(images_NCHW: Tensor) -> tuple[list[Image.Image], Tensor]:
    """The pictures of the images as files hold them, and the images (N, 3, H, W) of these."""
    pictures = to_pil(images_NCHW)
    return pictures, to_tensor(pictures).to(images_NCHW.device)


def last_passed(held_out: Mapping[int, float], max_drop: float) -> int:
    """The last update, of those that were checked, whose held-out reward is at most `max_drop` below the first.

    `held_out` is the reward by update, with 0 for where tuning began, which passes. What is not a number does
    not.

    >>> last_passed({0: 0.5, 20: 0.48, 40: 0.3}, max_drop=0.1)
    20
    """
    return max(step for step, value in held_out.items() if step == 0 or value >= held_out[0] - max_drop)

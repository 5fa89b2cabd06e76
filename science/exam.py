"""The examination of a tuned model: held-out prompts and noises, the same for every cell of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from drtune.config import Config
from drtune.contracts import DRIFT_PIXELS
from drtune.evaluation.comparison import BASE, CANDIDATE, per_prompt, with_cmmd, with_diversity, with_drift
from drtune.evaluation.measures import Gauges, pixel_drift
from drtune.files.images import to_pil, to_tensor
from drtune.models.base import Base
from drtune.models.drawing import draw
from drtune.models.loading import load_base
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import shots_of


class Exam:
    """Pictures of the same prompts from the same noises, and what they measure beside those of the base.

    Every seed has prompts and noises of its own: what differs between seeds then holds the chance of training and that
    of examination, and an interval over seeds covers both.
    """

    def __init__(self, config: Config, prompts: Sequence[Prompt], seed: int) -> None:
        base = load_base(config.base_model)
        self.config = config
        self.shots = shots_of(prompts, config.evaluation.pictures_per_prompt)
        self.texts = [shot.prompt.text for shot in self.shots]
        self.conditions, self.negative = base.encode(self.texts), base.encode_negative("")
        self.seeds = [shot.noise_seed(seed) for shot in self.shots]
        self.gauges = Gauges(config, Path())
        self.guidance_scales = (config.sampler.guidance_scale, config.evaluation.sampler.guidance_scale)
        """Of training and of deployment."""
        self.base_pictures = {scale: self.draw(base, scale) for scale in self.guidance_scales}
        self.base_readings = {scale: self._read(pictures) for scale, pictures in self.base_pictures.items()}
        self.base_measures = {
            scale: self._means(self.base_pictures[scale], self.base_readings[scale], scale)
            for scale in self.guidance_scales
        }

    def draw(self, base: Base, guidance_scale: float) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] by the base's network as it is now, with the deployment's number of steps."""
        steps = self.config.evaluation.sampler.steps
        return draw(base, self.conditions, self.negative, self.seeds, steps=steps, guidance_scale=guidance_scale)

    def measure(self, images_NCHW: Tensor, guidance_scale: float) -> dict[str, float]:
        """The mean over prompts of every measure; drift is held against the base at the same guidance scale."""
        return self._means(images_NCHW, self._read(images_NCHW), guidance_scale)

    def _read(self, images_NCHW: Tensor) -> pd.DataFrame:
        pictures = to_pil(images_NCHW)
        names = [shot.name for shot in self.shots]
        return pd.DataFrame(self.gauges.read(pictures, to_tensor(pictures), self.texts, names))

    def _means(self, images_NCHW: Tensor, readings: pd.DataFrame, guidance_scale: float) -> dict[str, float]:
        shots = pd.DataFrame(
            {
                "index": [shot.index for shot in self.shots],
                "category": "",
                "picture": [shot.picture for shot in self.shots],
            }
        )
        drift = pixel_drift(images_NCHW, self.base_pictures[guidance_scale])
        base = pd.concat([shots.assign(contestant=BASE), self.base_readings[guidance_scale]], axis=1)
        own = pd.concat([shots.assign(contestant=CANDIDATE, **{DRIFT_PIXELS: drift}), readings], axis=1)
        table = with_diversity(with_cmmd(with_drift(pd.concat([base, own], ignore_index=True))))
        means = per_prompt(table, self.gauges.measures)[CANDIDATE].drop(columns="category").mean()
        return {str(name): float(value) for name, value in means.items()}

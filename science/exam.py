"""The examination of a tuned model: held-out prompts and noises, the same for every cell of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drtune.config import Config
from drtune.evaluation.measures import Gauges
from drtune.files.images import to_pil, to_tensor
from drtune.models.base import Base
from drtune.models.drawing import draw
from drtune.models.loading import load_base
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import shots_of
from science.arms import LEFT_HALF

MEASURES = ("symmetry", "compressibility", LEFT_HALF, "preference", "drift")
"""What is read of a picture; drift is 1 less the cosine of its features to those of the base's from the same noise."""
Readings = NDArray[np.float32]
"""(P, M): a row a prompt, a column a measure."""


class Exam:
    """One picture of each of a seed's prompts, always from the same noise, and what is measured of it.

    Every seed has prompts and noises of its own: what differs between seeds then holds the chance of training and that
    of examination, and an interval over seeds covers both.
    """

    def __init__(self, config: Config, prompts: Sequence[Prompt], seed: int, device: torch.device) -> None:
        base = load_base(config.base_model)
        base.pipeline.to(device)
        self.sampler = config.evaluation.sampler
        self.shots = shots_of(prompts, pictures_per_prompt=1)
        self.texts = [shot.prompt.text for shot in self.shots]
        self.conditions, self.negative = base.encode(self.texts), base.encode_negative("")
        self.seeds = [shot.noise_seed(seed) for shot in self.shots]
        self.gauges = Gauges(config, Path())
        self.base_pictures = self.draw(base)
        self.base_features = self._features(self.base_pictures)

    def draw(self, base: Base) -> Tensor:
        """Images (P, 3, H, W) in [0, 1] by the base's network as it is now, all at once: the fewest calls."""
        steps, scale = self.sampler.steps, self.sampler.guidance_scale
        return draw(base, self.conditions, self.negative, self.seeds, steps=steps, guidance_scale=scale)

    def measure(self, images_PCHW: Tensor) -> Readings:
        """Each prompt's MEASURES, in their order."""
        pictures = to_pil(images_PCHW)
        names = [shot.name for shot in self.shots]
        rows = self.gauges.read(pictures, to_tensor(pictures), self.texts, names)
        drift_P = 1 - np.einsum("pd,pd->p", np.array([row["features"] for row in rows]), self.base_features)
        rewards_PM = np.array([[row[name] for name in MEASURES[:-1]] for row in rows])
        return np.column_stack([rewards_PM, drift_P]).astype(np.float32)

    def _features(self, images_PCHW: Tensor) -> NDArray[np.float64]:
        pictures = to_pil(images_PCHW)
        assert self.gauges.features is not None
        return self.gauges.features.embed(pictures, torch.device("cpu")).double().numpy()

"""What is measured of a picture: rewards, how it looks, and where it lies in a space of features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from drtune.config import Config
from drtune.contracts import CMMD, DIVERSITY_ACROSS, DIVERSITY_WITHIN, DRIFT, DRIFT_PIXELS, LOOKS, Measure
from drtune.evaluation.features import FeatureSpace, Spaces
from drtune.evaluation.pictures import reward_columns
from drtune.rewards import reward_of
from drtune.rewards.pixels import Brightness


class Gauges:
    """All that is measured of single pictures. `measures` are their names, and those of what follows from features."""

    def __init__(self, config: Config, model_folder: Path) -> None:
        self.rewards = [reward_of(config, name, model_folder) for name in config.measured_rewards]
        spaces = Spaces(config, self.rewards)
        self.features, self.clip, self.notes = spaces.features, spaces.clip, tuple(spaces.notes)
        self.pictures_per_prompt = config.evaluation.pictures_per_prompt
        self.trained = frozenset(config.rewards)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What every picture or prompt has a number of, in the order in which it is told."""
        told = [
            Measure(
                name=reward.name,
                kind="trained" if reward.name in self.trained else "held_out",
                provenance=reward.provenance,
            )
            for reward in self.rewards
        ]
        if self.features is not None:
            about = f"1 - cosine of image embeddings of {_told(self.features)}"
            if self.pictures_per_prompt > 1:
                told.append(Measure(name=DIVERSITY_WITHIN, kind="diversity", provenance=about))
            told.append(Measure(name=DIVERSITY_ACROSS, kind="diversity", provenance=about))
            told.append(Measure(name=DRIFT, kind="drift", provenance=about))
        if self.clip is not None:
            told.append(Measure(name=CMMD, kind="drift", provenance=f"image embeddings of {_told(self.clip)}"))
        told.append(Measure(name=DRIFT_PIXELS, kind="drift"))
        return (*told, *(Measure(name=name, kind="look") for name in LOOKS))

    @torch.no_grad()
    def read(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str], names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """For each picture its rewards and looks, and its unit embeddings as lists: `features` and, if another, `clip`.

        `images_BCHW` are the pictures in RGB and [0, 1], on the device that measures.

        Raises:
            UserError: a score is not finite; the picture is named.
        """
        columns: dict[str, list[Any]] = {**reward_columns(self.rewards, pictures, images_BCHW, prompts, names)}
        columns |= {name: values_B.double().tolist() for name, values_B in looks(images_BCHW).items()}
        if self.features is not None:
            columns["features"] = self.features.embed(pictures, images_BCHW.device).float().tolist()
        if self.clip is not None and self.clip is not self.features:
            columns["clip"] = self.clip.embed(pictures, images_BCHW.device).float().tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _told(space: FeatureSpace) -> str:
    """What a space is, and from where."""
    return f"{space.name}; {space.provenance}"


def pixel_drift(images_BCHW: Tensor, base_BCHW: Tensor) -> list[float]:
    """How far each picture is from the base's from the same noise: the mean absolute difference, in [0, 1]."""
    drift: list[float] = (images_BCHW - base_BCHW).abs().mean((1, 2, 3)).double().tolist()
    return drift


def looks(images_BCHW: Tensor) -> dict[str, Tensor]:
    """Numbers (B,) that move when a reward is hacked, though nobody asked for it.

    Luminance is the mean of luma in [0, 1], contrast its standard deviation, saturation the mean over pixels of the
    largest less the smallest channel, and sharpness the mean absolute difference of luma between neighbouring pixels,
    which compares only pictures of one size.
    """
    luma_BHW = torch.einsum("bchw,c->bhw", images_BCHW, images_BCHW.new_tensor(Brightness.weights))
    return {
        "luminance": luma_BHW.mean((1, 2)),
        "contrast": luma_BHW.std((1, 2), correction=0),
        "saturation": (images_BCHW.amax(1) - images_BCHW.amin(1)).mean((1, 2)),
        "sharpness": (luma_BHW.diff(dim=1).abs().mean((1, 2)) + luma_BHW.diff(dim=2).abs().mean((1, 2))) / 2,
    }

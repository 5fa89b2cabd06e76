"""The spaces of image features in which diversity, drift and the distance between sets of pictures are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import BitImageProcessorPil, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from drtune.config import Config
from drtune.errors import UserError
from drtune.evaluation.dreamsim import BASE, DreamSim
from drtune.rewards import Reward, reward_of
from drtune.rewards.clip import TowersReward, unit
from drtune.rewards.loading import network_from_hub
from drtune.rewards.preprocessing import BY_PILLOW


class FeatureSpace(Protocol):
    """Something with image embeddings."""

    @property
    def name(self) -> str:
        """As `Reward`."""

    @property
    def provenance(self) -> str:
        """As `Reward`."""

    def embed(self, pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
        """Unit embeddings (B, D) of finished pictures, computed on the device."""


class Dinov2:
    """DINOv2 ViT-B/14 (Oquab et al. 2023, arXiv 2304.07193), which learnt from pictures alone: it is no reward's judge.

    Its class token, of pictures as the published processor has them: the shorter side resized to 256 pixels by Pillow,
    and of that the centre of 224 by 224.
    """

    name = "dinov2"
    repository = BASE

    def __init__(self, model: Dinov2Model, weights: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = BitImageProcessorPil(
            size={"shortest_edge": 256},
            crop_size={"height": 224, "width": 224},
            resample=Image.Resampling.BICUBIC,
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        )
        self.provenance = f"{self.repository} {weights}, {BY_PILLOW}"

    @classmethod
    def load(cls) -> Self:
        """With the published weights.

        Raises:
            UserError: they are not to be had, or are no such network.
        """
        return cls(*network_from_hub(Dinov2Model, cls.name, cls.repository))

    def embed(self, pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
        """As `FeatureSpace`."""
        rgb = [picture.convert("RGB") for picture in pictures]
        pixels_BCHW = self.processor(rgb, return_tensors="pt").pixel_values.to(device)
        return unit(self.model.to(device)(pixel_values=pixels_BCHW).pooler_output)


class Spaces:
    """The space of diversity and drift, that of CMMD, which is a CLIP's and may be the same, and why one is absent."""

    def __init__(self, config: Config, rewards: Sequence[Reward]) -> None:
        wanted, miniature = config.evaluation.features, config.base_model == "miniature"
        name = {"auto": "preference" if miniature else "dinov2", "none": None}.get(wanted, wanted)
        self.features: FeatureSpace | None = None
        self.clip: FeatureSpace | None = None
        self.notes: list[str] = []
        if name is None:
            return
        try:
            self.features = _loaded(name, config, rewards)
        except UserError as error:
            if wanted != "auto":
                raise
            self.notes.append(f"no diversity and drift in features: {error}")
        try:
            is_clip = name not in (Dinov2.name, DreamSim.name)
            self.clip = self.features if is_clip else _loaded("clipscore", config, rewards)
        except UserError as error:
            self.notes.append(f"no CMMD: {error}")


def _loaded(name: str, config: Config, rewards: Sequence[Reward]) -> FeatureSpace:
    """The space of that name: that of a reward that is loaded already, or loaded for it alone."""
    if name == Dinov2.name:
        return Dinov2.load()
    if name == DreamSim.name:
        return DreamSim.load(config.reward_checkpoints[name])
    loaded = next((reward for reward in rewards if reward.name == name), None)
    space = loaded or reward_of(config, name)
    assert isinstance(space, TowersReward)
    return space

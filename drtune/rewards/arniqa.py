"""ARNIQA: how little a picture is distorted, as a ResNet has learnt it without captions or anyone's preferences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from drtune.errors import UserError
from drtune.rewards.loading import filled, from_pickle, under
from drtune.rewards.preprocessing import NetworkReward, Preprocessing, exact, normalised, resize
from drtune.rewards.weights import weights_of

WORST, BEST = 1.0, 5.0
"""Of the ratings of KADID-10k, on which the linear layer was fitted."""

_BLOCK = re.compile(r"(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)")


class Whole(Preprocessing):
    """The whole picture in its own size, and colours normalised as ImageNet's; the network halves it itself."""

    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """As `Preprocessing`."""
        return normalised(images_BCHW.to(exact(images_BCHW)), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


class Arniqa(NetworkReward):
    """ARNIQA (Agnolucci et al. 2024, arXiv 2310.14918): 0 for what is badly distorted, about 1 for what is not.

    A ResNet-50, taught without labels to find pictures alike that are distorted alike, sees the picture in full and in
    half size; a linear layer on both unit embeddings was fitted to ratings of distorted photographs (KADID-10k). The
    prompt is not read. The whole picture is seen, as in the repository's README and in torchmetrics 1.9.0
    (functional/image/arniqa.py), where its author put it; the paper averages five crops of 224 x 224.
    """

    name = "arniqa"
    repository = "chaofengc/IQA-PyTorch-Weights"
    """A copy on the hub of the files that the authors have on GitHub; the digests hold them equal."""
    file = "ARNIQA.pth"
    digest = "sha256:ad2022e59b1040d5bab24f9325c10d0215956a2061248a36c15edaec3e60fcd1"
    ratings = "regressor_kadid10k.pth"
    ratings_digest = "sha256:4315bf471d52eb7d3e5de1e2ac8bb465f8eec10cd724103c72a178b9aaa4aa3f"

    def __init__(self, encoder: ResNetModel, rating: nn.Linear, weights: str, *, antialias: bool) -> None:
        self.encoder, self.rating = encoder.eval().requires_grad_(False), rating.requires_grad_(False)
        self.weights = weights
        self.preprocessing = Whole(1, antialias)

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or those of a checkpoint in their place, with the published ratings beside it.

        Raises:
            UserError: they are not to be had, or are no such network.
        """
        path, network = weights_of(cls.name, cls.repository, cls.file, cls.digest, checkpoint=checkpoint)
        beside = None if checkpoint is None else path.parent
        ratings, linear = weights_of(cls.name, cls.repository, cls.ratings, cls.ratings_digest, checkpoint=beside)
        encoder = from_pickle(cls.name, path, "ARNIQA", encoder_of)
        try:
            rating = rating_of(ratings, 2 * encoder.config.hidden_sizes[-1])
        except (BadZipFile, ValueError) as error:
            raise UserError(f"reward {cls.name}: {ratings} holds no ratings ({error}); take another copy") from None
        return cls(encoder, rating, f"{network}, {linear}", antialias=antialias)

    def judge(self, pixels_BCHW: Tensor, _prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`."""
        for network in (self.encoder, self.rating):
            network.to(pixels_BCHW.device, pixels_BCHW.dtype)
        height, width = (max(1, length // 2) for length in pixels_BCHW.shape[-2:])
        half_BCHW = resize(pixels_BCHW, height, width, antialias=self.preprocessing.antialias, mode="bilinear")
        rated_B1: Tensor = self.rating(torch.cat([self._embed(pixels_BCHW), self._embed(half_BCHW)], dim=1))
        return (rated_B1[:, 0] - WORST) / (BEST - WORST)

    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        return F.normalize(self.encoder(pixels_BCHW).pooler_output.flatten(1), dim=1)


def encoder_of(state: Mapping[str, Tensor]) -> ResNetModel:
    """The ResNet of a state dict in the published layout, `model.*`: torchvision's without its last layer.

    What else there is, the projector that was needed to train it, is not read.

    Raises:
        LookupError, ValueError: a weight is missing, unknown or of the wrong shape.
    """
    published = under("model.", state)
    blocks = [int(found[1]) for key in published if (found := re.fullmatch(r"(\d)\.\d+\.conv3\.weight", key))]
    stages = sorted(set(blocks))
    config = ResNetConfig(
        embedding_size=len(published["0.weight"]),
        hidden_sizes=[len(published[f"{stage}.0.conv3.weight"]) for stage in stages],
        depths=[blocks.count(stage) for stage in stages],
        layer_type="bottleneck",
    )
    return filled(ResNetModel, config, {_named(key): tensor for key, tensor in published.items()})


def _named(key: str) -> str:
    """The name in transformers of a weight of torchvision's ResNet, whose layers are numbered."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if (first := re.fullmatch(r"([01])\.(\w+)", key)) is not None:
        return f"embedder.embedder.{'convolution' if first[1] == '0' else 'normalization'}.{first[2]}"
    if (found := _BLOCK.fullmatch(key)) is None:
        raise ValueError(f"{key!r} is no weight of a ResNet")
    stage, block, kind, number, what = found.groups()
    layer = f"encoder.stages.{int(stage) - 4}.layers.{block}"
    if kind == "downsample.":
        return f"{layer}.shortcut.{list(kinds.values())[int(number)]}.{what}"
    return f"{layer}.layer.{int(number) - 1}.{kinds[kind]}.{what}"


def rating_of(path: Path, width: int) -> nn.Linear:
    """The linear layer of a TorchScript archive with `weights` (1, width) and `biases` (), in single precision.

    Its two tensors are read by their sizes, as bytes of the archive: no code in it runs.

    Raises:
        BadZipFile, ValueError: it has no such tensors.
    """
    with ZipFile(path) as archive:
        stored = [archive.read(name) for name in archive.namelist() if re.fullmatch(r"[^/]+/data/\d+", name)]
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.float32) for content in stored if content]
    if sorted(map(len, tensors)) != [1, width]:
        raise ValueError(f"{len(tensors)} tensors, not one of {width} numbers and one of 1")
    bias, weight = sorted(tensors, key=len)
    rating = nn.Linear(width, 1)
    rating.load_state_dict({"weight": weight[None], "bias": bias})
    return rating

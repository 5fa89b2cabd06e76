"""CLIP as a reward: the cosine of an image's and a prompt's embeddings, with a gradient to the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from drtune.rewards.loading import from_hub
from drtune.rewards.weights import fetch


class Towers:
    """Image and text tower of a CLIP, frozen. They follow the images to their device and precision."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.side: int = model.config.vision_config.image_size
        """Height and width in pixels of the images that the tower sees."""
        self.embedded: dict[str, Tensor] = {}
        """Text embeddings by prompt, in main memory: 4 KiB each for a ViT-H."""
        self.max_embedded = 20_000
        """So many are kept, the newest."""

    def cosine(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines (B,) in [-1, 1] of images (B, 3, side, side), normalised as the tower wants them, and prompts."""
        image = self.embed(pixels_BCHW)
        return (image * self._embed_text(prompts).to(image)).sum(-1)

    def embed(self, pixels_BCHW: Tensor) -> Tensor:
        """Unit embeddings (B, D) of such images."""
        self.model.to(pixels_BCHW.device, pixels_BCHW.dtype)
        return unit(self.model.get_image_features(pixel_values=pixels_BCHW).pooler_output)

    @torch.no_grad()
    def _embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings (B, D): a prompt is encoded once, without a graph, and the newest ones are kept."""
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.embedded]:
            length = self.model.config.text_config.max_position_embeddings
            encoded = self.tokenizer(new, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            # Padding comes after the end of the text, which causal attention cannot see: no mask is needed.
            features = self.model.get_text_features(input_ids=encoded.input_ids.to(self.model.device)).pooler_output
            self.embedded |= zip(new, unit(features).cpu(), strict=True)
        embeddings = torch.stack([self.embedded[prompt] for prompt in prompts])
        for oldest in list(self.embedded)[: -self.max_embedded]:
            del self.embedded[oldest]
        return embeddings


class CLIPReward:
    """What is computed from the two towers of a published CLIP; a score adds how its images are seen."""

    name: str
    repository: ClassVar[str]
    """Of the weights, on the hub."""
    digest: ClassVar[str | None]
    """Of the weights' file, as in `fetch`; None: nobody has published one, and so the file's own is only told."""
    words: ClassVar[str]
    """Repository of the tokenizer."""

    def __init__(self, towers: Towers, weights: str, *, antialias: bool) -> None:
        self.towers, self.antialias = towers, antialias
        self.provenance = f"{weights}, {resized(antialias)}"

    @classmethod
    def load(cls, *, antialias: bool) -> Self:
        """With the published weights.

        Raises:
            UserError: they are not to be had, or are no such checkpoint.
        """
        model, weights = cls.network()
        words = fetch(cls.name, cls.words, {"vocab.json": None, "merges.txt": None})
        return cls(Towers(model, CLIPTokenizer.from_pretrained(words)), weights, antialias=antialias)

    @classmethod
    def network(cls) -> tuple[CLIPModel, str]:
        """The published network, and which file it is."""
        return from_hub(CLIPModel, cls.name, cls.repository, cls.digest)


def unit(features: Tensor) -> Tensor:
    """Unit vectors in at least single precision: half of it would leave a cosine two digits."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def letterboxed(images_BCHW: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Images (B, 3, side, side): the longer side resized to `side`, bicubic, and zeros around the shorter one."""
    height, width = images_BCHW.shape[-2:]
    scale = side / max(height, width)
    rows, columns = round(height * scale), round(width * scale)
    top, left = (side - rows) // 2, (side - columns) // 2
    resized = resize(images_BCHW, rows, columns, antialias=antialias)
    return F.pad(resized, (left, side - columns - left, top, side - rows - top))


def centre_cropped(images_BCHW: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Images (B, 3, side, side) in [0, 1]: the shorter side resized to `side`, bicubic, and the centre of the longer.

    Clamped after each direction, where bicubic interpolation overshoots, as Pillow's 8-bit resizing does.
    """
    height, width = images_BCHW.shape[-2:]
    shorter = min(height, width)
    rows, columns = side * height // shorter, side * width // shorter
    top, left = (rows - side) // 2, (columns - side) // 2
    wide = resize(images_BCHW, height, columns, antialias=antialias).clamp(0, 1)
    resized = resize(wide, rows, columns, antialias=antialias).clamp(0, 1)
    return resized[..., top : top + side, left : left + side]


def resize(images_BCHW: Tensor, height: int, width: int, *, antialias: bool, mode: str = "bicubic") -> Tensor:
    """Images (B, 3, height, width), computed in at least single precision: torch has no kernel for half of it."""
    exact = images_BCHW.to(torch.promote_types(images_BCHW.dtype, torch.float32))
    return F.interpolate(exact, (height, width), mode=mode, antialias=antialias).to(images_BCHW.dtype)


def normalised(images_BCHW: Tensor) -> Tensor:
    """Images with the mean and deviation of each colour channel of CLIP's training set taken off."""
    mean, deviation = (images_BCHW.new_tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (images_BCHW - mean) / deviation


def resized(antialias: bool) -> str:
    """How a reward resizes, to be told with its scores."""
    return f"resized {'with' if antialias else 'without'} antialias"

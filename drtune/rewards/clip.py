"""CLIP as a reward: the cosine of an image's and a prompt's embeddings, with a gradient to the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from drtune.rewards.loading import network_from_hub
from drtune.rewards.preprocessing import NetworkReward, Preprocessing
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
        text = self._embed_text(prompts)  # first: the weights may not move once the image's graph holds them
        image = self.embed(pixels_BCHW)
        return (image * text.to(image)).sum(-1)

    def embed(self, pixels_BCHW: Tensor) -> Tensor:
        """Unit embeddings (B, D) of such images."""
        self.model.to(pixels_BCHW.device, pixels_BCHW.dtype)
        return unit(self.model.get_image_features(pixel_values=pixels_BCHW).pooler_output)

    @torch.no_grad()
    def _embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings (B, D): a prompt is encoded once, without a graph, and the newest ones are kept.

        By itself and in single precision: encoded with others, or as the images are, its last bits would hang on what
        was scored before.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.embedded:
                self.embedded[prompt] = self._embed_prompt(prompt)
        embeddings = torch.stack([self.embedded[prompt] for prompt in prompts])
        for oldest in list(self.embedded)[: -self.max_embedded]:
            del self.embedded[oldest]
        return embeddings

    def _embed_prompt(self, prompt: str) -> Tensor:
        self.model.to(torch.float32)
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(
            [prompt], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        # Padding comes after the end of the text, which causal attention cannot see: no mask is needed.
        with torch.autocast(self.model.device.type, enabled=False):
            features = self.model.get_text_features(input_ids=encoded.input_ids.to(self.model.device)).pooler_output
        return unit(features)[0].cpu()


class TowersReward(NetworkReward):
    """What is computed from the two towers of a CLIP."""

    towers: Towers

    def embed(self, pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
        """Unit embeddings (B, D) of finished pictures, in which those that look alike lie close together."""
        return self.towers.embed(self.preprocessing.of_pictures(pictures).to(device))


class CLIPReward(TowersReward):
    """Of a published CLIP; a score adds what is read of a prompt and how."""

    repository: ClassVar[str]
    """Of the weights, on the hub."""
    digest: ClassVar[str | None]
    """Of the weights' file, as in `fetch`; None: nobody has published one, and so the file's own is only told."""
    words: ClassVar[str]
    """Repository of the tokenizer."""
    sees: ClassVar[type[Preprocessing]]

    def __init__(self, towers: Towers, weights: str, *, antialias: bool) -> None:
        self.towers, self.weights = towers, weights
        self.preprocessing = self.sees(towers.side, antialias)

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or those of a checkpoint in their place.

        Raises:
            UserError: they are not to be had, or are no such checkpoint.
        """
        model, weights = cls.network(checkpoint)
        beside = checkpoint if cls.words == cls.repository else None
        words = fetch(cls.name, cls.words, ("vocab.json", "merges.txt"), checkpoint=beside)
        return cls(Towers(model, CLIPTokenizer.from_pretrained(words)), weights, antialias=antialias)

    @classmethod
    def network(cls, checkpoint: Path | None) -> tuple[CLIPModel, str]:
        """The published network or the checkpoint's, and which file it is."""
        return network_from_hub(CLIPModel, cls.name, cls.repository, cls.digest, checkpoint)


def unit(features: Tensor) -> Tensor:
    """Unit vectors in at least single precision: half of it would leave a cosine two digits."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)

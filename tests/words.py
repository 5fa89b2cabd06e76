"""Words and pictures for tiny networks: a vocabulary of letters, random images, a picture that is hard to resize."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

LETTERS = sorted(ByteLevel.alphabet())
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
BYTES = ByteLevel(add_prefix_space=False, use_regex=False)
CONTEXT = 77
PROMPTS = ["A red circle", "two green squares, left of a lake", "x"]


def random_images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def write_clip_words(folder: Path) -> None:
    """A CLIP tokenizer's files: letters, and no merges."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def tokenize(prompts: list[str]) -> Tensor:
    """OpenCLIP's tokens of words that no merge joins: start, letters, end, and zeros after that."""
    number = {token: index for index, token in enumerate(VOCABULARY)}
    tokens = torch.zeros(len(prompts), CONTEXT, dtype=torch.long)
    for row, prompt in zip(tokens, prompts, strict=True):
        words = [BYTES.pre_tokenize_str(word)[0][0] for word in prompt.lower().replace(",", " ,").split()]
        spelled = [letter for word in words for letter in (*word[:-1], f"{word[-1]}</w>")]
        found = [number[token] for token in ("<|startoftext|>", *spelled, "<|endoftext|>")]
        row[: len(found)] = torch.tensor(found)
    return tokens


def colours(pixels: Tensor) -> Tensor:
    """What was normalised as CLIP's, in [0, 1] again."""
    mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return pixels * deviation + mean


def picture(width: int, height: int) -> Image.Image:
    """Hard edges and noise: what interpolation can get wrong."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255
    pixels[height // 3 :, width // 3 : width // 2] = 0
    return Image.fromarray(pixels)


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255

"""Qwen2-VL and Qwen2.5-VL as rewards: what they read of a picture and a question, with a gradient to the pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import AutoTokenizer

from drtune.errors import UserError
from drtune.rewards.weights import fetch

WORDS = ("tokenizer.json", "tokenizer_config.json")
IMAGE = "<|image_pad|>"
"""Stands in the text once for each group of patches of the picture."""


class Reader:
    """A vision-language model of the two families, frozen, in the precision of its file, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        vision = model.config.vision_config
        self.patch: int = vision.patch_size
        self.merge: int = vision.spatial_merge_size
        self.frames: int = vision.temporal_patch_size
        self.side = self.patch * self.merge
        """What a picture's height and width must be multiples of."""

    def read(self, pixels_CHW: Tensor, question: str) -> dict[str, Tensor]:
        """What the network takes: one picture and a question about it, as the chat template of both families has them.

        Args:
            pixels_CHW: normalised, its sides multiples of `side`.
            question: the text after the picture.

        Raises:
            UserError: there is the sign in it that stands for the picture.
        """
        if IMAGE in question:
            raise UserError(f"prompts: one has {IMAGE} in it, which stands for the picture here; take it out")
        patches_ND, rows, columns = self._patches(pixels_CHW)
        seen = IMAGE * (len(patches_ND) // self.merge**2)
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n<|vision_start|>{seen}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        self.model.to(pixels_CHW.device)
        tokens_1L = self.tokenizer(text, return_tensors="pt").input_ids.to(pixels_CHW.device)
        return {
            "input_ids": tokens_1L,
            "pixel_values": patches_ND.to(self.model.dtype),
            "image_grid_thw": torch.tensor([[1, rows, columns]], device=pixels_CHW.device),
            "mm_token_type_ids": (tokens_1L == self.tokenizer.convert_tokens_to_ids(IMAGE)).int(),
        }

    def _patches(self, pixels_CHW: Tensor) -> tuple[Tensor, int, int]:
        """Patches (N, channels * frames * patch * patch), those of a group side by side; and how many rows, columns.

        A picture is a film in which every frame is the same.
        """
        channels, height, width = pixels_CHW.shape
        rows, columns = height // self.patch, width // self.patch
        tiled = pixels_CHW.reshape(
            channels, rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch
        ).permute(1, 4, 2, 5, 0, 3, 6)
        film = tiled.unsqueeze(5).expand(*tiled.shape[:5], self.frames, *tiled.shape[5:])
        return film.reshape(rows * columns, channels * self.frames * self.patch**2), rows, columns


def words_of(reward: str, repository: str, revision: str, checkpoint: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub repository, or of a folder in its place.

    Raises:
        UserError: its files are not to be had.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        fetch(reward, repository, WORDS, revision, checkpoint)
    )
    return tokenizer

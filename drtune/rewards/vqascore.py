"""VQAScore: how probably a vision-language model answers yes when it is asked whether a picture shows the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, RepetitionPenaltyLogitsProcessor

from drtune.rewards.loading import from_shards
from drtune.rewards.preprocessing import NetworkReward, SmartResize
from drtune.rewards.qwen import Reader, words_of

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
ANSWER = "Yes"
LEAST, MOST = 4 * 28 * 28, 16384 * 28 * 28
"""Pixels that are seen of a picture, as qwen-vl-utils has them: one of 1024 x 1024 is seen at 1036 x 1036."""


class VQAScore(NetworkReward):
    """VQAScore (Lin et al. 2024, arXiv 2404.01291) of Qwen2.5-VL-7B, its code's default: a probability, 0 to 1.

    (linzhiqiu/t2v_metrics at 6ecb74f, t2v_metrics/models/vqascore_models/qwen2vl_model.py, `forward`: question, answer,
    the first token alone, and the repetition penalty of the published generation_config.json. It fails where the most
    probable answer is none at all, which gets its score here.) The paper's own judge is CLIP-FlanT5-XXL, whose question
    ends in "yes or no": its scores are others.
    """

    name = "vqascore"
    repository = "Qwen/Qwen2.5-VL-7B-Instruct"
    revision = "cc594898137f460bfe9f0759e9844b3ce807cfb5"

    def __init__(self, reader: Reader, weights: str, *, antialias: bool) -> None:
        self.reader, self.weights = reader, weights
        self.preprocessing = SmartResize(reader.side, antialias, LEAST, MOST)
        settings = reader.model.generation_config
        self.penalty = RepetitionPenaltyLogitsProcessor(float(settings.repetition_penalty or 1.0))
        self.yes: int = reader.tokenizer.encode(ANSWER, add_special_tokens=False)[0]

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or those of a folder in their place.

        Raises:
            UserError: they are not to be had, or are no such network.
        """
        place = (cls.name, cls.repository, cls.revision, checkpoint)
        model, weights = from_shards(Qwen2_5_VLForConditionalGeneration, *place)
        words = words_of(*place)
        return cls(Reader(model, words), f"{checkpoint or cls.repository} {weights}", antialias=antialias)

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`; one picture after the other, so that no question is padded for another."""
        return torch.stack(
            [self._probability(pixels, prompt) for pixels, prompt in zip(pixels_BCHW, prompts, strict=True)]
        )

    def _probability(self, pixels_CHW: Tensor, prompt: str) -> Tensor:
        read = self.reader.read(pixels_CHW, QUESTION.format(prompt))
        logits_1V = self.reader.model(**read, logits_to_keep=1, use_cache=False).logits[:, -1]
        exact_1V = logits_1V.to(torch.promote_types(logits_1V.dtype, torch.float32))
        said_1L = read["input_ids"].unique()[None]  # repeated, a token's gradient would be counted as often
        probability: Tensor = self.penalty(said_1L, exact_1V).softmax(-1)[0, self.yes]
        return probability

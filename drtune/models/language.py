"""Prompts that a whole language model reads: each as long as its text, filled up to one length and masked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._subclasses import FakeTensor

from drtune.models.base import Base


class LanguageModelBase(Base):
    """A base whose prompts a language model reads in a template, cut at a length that is not its tokenizer's."""

    max_tokens: int
    """Of a prompt with its template; what is longer is cut."""

    @property
    def tokenizer(self) -> Any:
        """The language model's."""
        return self.pipeline.tokenizer

    @abstractmethod
    def in_template(self, prompt: str) -> str:
        """The text that the language model is given for a prompt."""

    def count_truncated(self, prompts: Sequence[str]) -> int:
        """As `Base`."""
        lengths = (len(self.tokenizer(self.in_template(prompt)).input_ids) for prompt in prompts)
        return sum(length > self.max_tokens for length in lengths)

    def tokenized(self, prompts: Sequence[str]) -> Mapping[str, Any]:
        """`input_ids` and `attention_mask` (B, `max_tokens`), filled up on the right, where the language model is."""
        tokens: Mapping[str, Any] = self.tokenizer(
            [self.in_template(prompt) for prompt in prompts],
            padding="max_length",
            padding_side="right",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.encoding_device)
        return tokens


def lengths(mask_BL: Tensor) -> list[int]:
    """How many tokens of each row count: all of them in a plan, whose tensors have no numbers."""
    if isinstance(mask_BL, FakeTensor):
        return [mask_BL.shape[1]] * len(mask_BL)
    counts: list[int] = mask_BL.sum(1).tolist()
    return counts

"""What is to be drawn: which prompts, how many pictures of each, and from which noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from drtune.files.local import sha256_bytes
from drtune.prompts.prepare import Prompt


@dataclass(frozen=True)
class Shot:
    """One picture that every contestant shows: of which prompt, and how many pictures of it come before."""

    index: int
    """Of the prompt in the evaluation."""
    prompt: Prompt
    picture: int

    @property
    def name(self) -> str:
        """Of the picture's file, without its suffix."""
        return f"{self.index:04d}-{self.picture}"

    def noise_seed(self, seed: int) -> int:
        """Of the initial noise. It hangs on text and picture alone, not on the other prompts of the evaluation."""
        return int(sha256_bytes(f"{seed} {self.picture} {self.prompt.text}".encode())[:15], 16)


def choose_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """At most `count` prompts: the first of each category, then the second of each, and so on."""
    categories: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        categories.setdefault(prompt.category, []).append(prompt)
    in_turn = chain.from_iterable(zip_longest(*categories.values()))
    return [prompt for prompt in in_turn if prompt is not None][:count]


def shots_of(prompts: Sequence[Prompt], pictures_per_prompt: int) -> list[Shot]:
    """All pictures of the first prompt, then of the second, and so on."""
    return [
        Shot(index, prompt, picture) for index, prompt in enumerate(prompts) for picture in range(pictures_per_prompt)
    ]

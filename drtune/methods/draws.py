"""All that is random in a run, as functions of the seed and of the update's number alone.

So there is no random state to keep, a resumed run draws what it would have drawn, and N processes draw what one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from drtune.files.local import sha256_bytes


@dataclass(frozen=True)
class Draws:
    """Prompts and noise of every update; a slot is a place in the update's batch, whichever process fills it."""

    seed: int
    num_prompts: int
    batch_size: int
    latents_shapes: tuple[tuple[int, int, int], ...]
    """(C, H, W) of each size that takes its turn."""

    def turn(self, step: int) -> int:
        """Whose turn it is among the sizes: by turns each has its share of any stretch of updates."""
        return (step - 1) % len(self.latents_shapes)

    def prompt(self, step: int, slot: int) -> int:
        """Index of the prompt: every epoch goes through all prompts in an order of its own."""
        epoch, place = divmod((step - 1) * self.batch_size + slot, self.num_prompts)
        return _shuffled(self.seed, epoch, self.num_prompts)[place]

    def noise(self, step: int, slots: range, *key: int | str) -> Tensor:
        """Unit noise (B, C, H, W) for some slots, on the CPU; `key` tells apart what an update draws several times."""
        shape = self.latents_shapes[self.turn(step)]
        rows = [torch.randn(shape, generator=generator_of(self.seed, "noise", step, slot, *key)) for slot in slots]
        return torch.stack(rows)


def generator_of(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone: the same on every process, machine and resumed run."""
    return torch.Generator().manual_seed(int(sha256_bytes(repr(key).encode())[:15], 16))


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=generator_of(seed, "order", epoch)).tolist()
    return order

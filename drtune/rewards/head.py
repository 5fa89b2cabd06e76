"""The head that LAION's aesthetic predictor and ImageReward put on an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
WIDTHS = (1024, 128, 64, 16, 1)
LAYERS = ("0", "2", "4", "6", "7")
"""Names of the layers that have weights: dropout, which is idle in use, stands where a number is left out."""


class Head(nn.Module):
    """Five linear layers without activations, frozen: (B, width) -> (B,), in at least single precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = zip((width, *WIDTHS), WIDTHS, strict=False)
        self.layers = nn.ModuleDict(
            {name: nn.Linear(before, after) for name, (before, after) in zip(LAYERS, sizes, strict=True)}
        )
        self.eval().requires_grad_(False)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], width: int) -> Self:
        """With these weights, `layers.0.weight` and so on, for embeddings of that width.

        Raises:
            ValueError: one is missing, unknown or of the wrong shape.
        """
        return furnished(cls(width), state)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Scores (B,)."""
        features_BD = features_BD.to(torch.promote_types(features_BD.dtype, torch.float32))
        self.to(features_BD.device, features_BD.dtype)
        for layer in self.layers.values():
            features_BD = layer(features_BD)
        return features_BD.squeeze(-1)


def furnished(head: Module, state: Mapping[str, Tensor]) -> Module:
    """The head with these weights.

    Raises:
        ValueError: one is missing, unknown or of the wrong shape.
    """
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return head

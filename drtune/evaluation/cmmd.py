"""CMMD: how far two sets of pictures lie apart, whatever each picture shows (Jayasumana et al. 2024, arXiv 2401.09603).

The squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel of width 10, times 1000. It is computed
without bias, from pictures of different prompts alone, so that it is 0 on average where nothing changed and may fall
below. The paper embeds with a ViT-L/14 at 336 pixels: numbers compare with each other, not with its tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH = 10.0
SCALE = 1000.0
_AT_ONCE = 1 << 22
"""Numbers that are held at a time."""


def cmmd_by_prompt(own_ND: Floats, own_N: NDArray[np.intp], base_MD: Floats, base_M: NDArray[np.intp]) -> Floats:
    """Means (P,) over the pairs with each of P prompts, whose mean is the CMMD of two sets of unit embeddings.

    Args:
        own_ND: of one set.
        own_N: the prompt of each of its pictures, 0 to P - 1, none without a picture; P is 2 at least.
        base_MD: of the other set.
        base_M: likewise.
    """
    own, base = (own_ND, own_N), (base_MD, base_M)
    signed = ((own, own, 1), (base, base, 1), (own, base, -1), (base, own, -1))
    total: Floats = np.sum([sign * _to_others(*one, *other) for one, other, sign in signed], axis=0)
    return SCALE * total


def _to_others(x_ND: Floats, place_N: NDArray[np.intp], y_MD: Floats, place_M: NDArray[np.intp]) -> Floats:
    """Means (P,) of the kernel between a prompt's pictures in x and those of all other prompts in y, each alike."""
    counts_P = np.bincount(place_M)
    weight_M = 1 / (counts_P[place_M] * (len(counts_P) - 1))
    rows = max(1, _AT_ONCE // len(y_MD))
    means_N = np.concatenate(
        [
            (_kernel(x_ND[start : start + rows], y_MD) * (place_N[start : start + rows, None] != place_M)) @ weight_M
            for start in range(0, len(x_ND), rows)
        ]
    )
    return np.bincount(place_N, weights=means_N) / np.bincount(place_N)


def _kernel(x_ND: Floats, y_MD: Floats) -> Floats:
    """Of unit vectors; 1 is taken off, which cancels out and would cost digits."""
    kernel: Floats = np.expm1((x_ND @ y_MD.T - 1) / WIDTH**2)
    return kernel

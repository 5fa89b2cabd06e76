"""Whether a picture of the miniature shows its object where the caption says."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from drtune.models.miniature.world import IMAGE_SIZE, PLACES

OBJECT = 0.15
"""Least difference of a pixel from the background, in any channel of [0, 1]."""
AWAY = 4.5
"""Pixels of the world from which on an object stands elsewhere; two places are 6.5 apart."""


def place_of(caption: str) -> str | None:
    """The place that a caption of the world names for its one object, such as "on the left"; None: it names none."""
    found = re.search(rf" ({'|'.join(PLACES)}), on an? \w+ background$", caption)
    return found[1] if found else None


def stands_at(picture: Image.Image, place: str) -> bool:
    """Whether the middle of what is not background is where the world has that place."""
    levels_HWC = np.asarray(picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE)), dtype=float) / 255
    difference_HW = np.abs(levels_HWC - np.median(levels_HWC, axis=(0, 1))).max(axis=2)
    rows, columns = np.nonzero(difference_HW > OBJECT)
    if not len(rows):
        return False
    x, y = PLACES[place]
    return bool(abs(columns.mean() + 0.5 - x) < AWAY and abs(rows.mean() + 0.5 - y) < AWAY)

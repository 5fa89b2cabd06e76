"""The published table of Human Preference Score v2.1, as context for numbers of one's own (Wu et al. 2023)."""

from __future__ import annotations

from typing import NamedTuple

STYLES = ("anime", "concept-art", "paintings", "photo")
"""Of the benchmark's prompts, 800 each."""


class Published(NamedTuple):
    """A row of the published table: means by style, in the order of STYLES, and the average over all pictures."""

    name: str
    styles: tuple[float, float, float, float]
    average: float


PUBLISHED = (
    Published("SDXL Refiner 0.9", (33.26, 32.07, 31.63, 28.38), 31.34),
    Published("SDXL Base 0.9", (32.84, 31.36, 30.86, 27.48), 30.63),
    Published("Deliberate", (31.46, 30.48, 30.17, 28.83), 30.23),
    Published("SD 2.0", (27.09, 26.02, 25.68, 26.73), 26.38),
    Published("DALL-E 2", (26.38, 24.51, 24.93, 25.55), 25.34),
    Published("SD 1.4", (26.03, 24.87, 24.80, 25.70), 25.35),
)
"""Of the authors' table for v2.1, as published with it. There is no row for Midjourney."""
CAVEAT = (
    "Published rows were computed by others and do not reproduce: for SDXL Base 0.9 the table says 30.63, and its own "
    "pictures and code gave 28.71 when tried again (HPSv2, issue 43). The likely reason is antialias, whose default "
    "changed in torchvision 0.17. They are context, not opponents."
)

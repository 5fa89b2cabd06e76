"""From tensors to pictures: files, grids, and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def to_pil(images_BCHW: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [0, 1] as 8-bit RGB pictures; what lies outside of the range is clamped."""
    pixels_BHWC = (images_BCHW.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(pixels_HWC) for pixels_HWC in pixels_BHWC.cpu().numpy()]


def resized(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side at `side` pixels, or just below.

    A small one is enlarged by a whole factor, so that its pixels stay crisp; a large one is reduced smoothly.
    """
    if (longest := max(image.size)) <= side:
        factor = side // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def grid(images_BCHW: Tensor, columns: int) -> Image.Image:
    """Images (B, 3, H, W) in [0, 1] as one picture, in rows of `columns`."""
    return contact_sheet(to_pil(images_BCHW), columns)


def contact_sheet(pictures: Sequence[Image.Image], columns: int, *, side: int = 256, gap: int = 4) -> Image.Image:
    """Pictures of one size in rows of `columns`: each `resized` to `side`, with `gap` pixels of white between them."""
    small = [resized(picture, side) for picture in pictures]
    width, height = small[0].size
    columns = min(columns, len(small))
    rows = -(-len(small) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(small):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    return sheet

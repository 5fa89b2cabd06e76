"""Pictures: read from files, made of tensors and into tensors, and thumbnails."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from drtune.files.local import open_given

if TYPE_CHECKING:
    from torch import Tensor

MOST_PIXELS = 2**25
"""Of a picture that somebody brings: 8192 x 4096. Decoded as floats it takes 0.4 GB."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Pillow has others that start programs, as EPS does."""


class UnusablePictureError(Exception):
    """A file is no picture that can be read; the message is the reason."""


def open_picture(path: Path) -> Image.Image:
    """The picture in a file: its first frame, turned as its EXIF orientation says, with 8 bits a channel.

    It keeps its mode (grey, palette, CMYK, alpha): an original that resizes before it converts to RGB must see it. Of
    16 bits the upper eight count, as Pillow itself reads colours of 16 bits; it would clip greys to white.

    Raises:
        UnusablePictureError: it cannot be opened, is too large, or is of integers or floats whose white nobody has
            told.
    """
    import numpy as np

    try:
        with open_given(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            picture = ImageOps.exif_transpose(image)  # a copy, which is loaded
    except Image.DecompressionBombError:
        raise UnusablePictureError(f"more than {MOST_PIXELS // 10**6} megapixels") from None
    except (OSError, SyntaxError, ValueError):  # all that Pillow has for a bad file
        raise UnusablePictureError("corrupt") from None
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UnusablePictureError("32 bits a channel")
    return picture


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as RGB images (B, 3, H, W) in [0, 1]; alpha is dropped, as the rewards' originals do."""
    import numpy as np
    import torch

    levels_BHWC = np.stack([np.array(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(levels_BHWC).permute(0, 3, 1, 2) / 255


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

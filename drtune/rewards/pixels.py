"""Low-level rewards, computed from pixels alone: symmetry, compressibility, brightness, and the size as a JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drtune.files.images import to_pil


class Symmetry:
    """Relative mirror symmetry, at most 1.

    1 - mean|x - flip(x)| / (2 mean|x - mean(x)| + 0.03), with the mean of each colour channel over the image. Raw
    symmetry is highest for an empty picture; divided by the picture's own contrast, erasing the object gains nothing.
    """

    name = "symmetry"
    provenance = ""

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`."""
        asymmetry = (images_BCHW - images_BCHW.flip(-1)).abs().mean((1, 2, 3))
        contrast = (images_BCHW - images_BCHW.mean((2, 3), keepdim=True)).abs().mean((1, 2, 3))
        return 1 - asymmetry / (2 * contrast + 0.03)


class RawSymmetry:
    """Minus the mean distance between the image and its mirror image: 0 is perfect, -1 the worst.

    A blank picture has it all, and tuning finds that out: it is here to compare with others who tune on it, and to
    show what hacking a reward looks like.
    """

    name = "raw_symmetry"
    provenance = ""

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`."""
        return -(images_BCHW - images_BCHW.flip(-1)).abs().mean((1, 2, 3))


class Brightness:
    """Mean luminance (ITU-R BT.601) in [0, 1]."""

    name = "brightness"
    provenance = ""
    weights = (0.299, 0.587, 0.114)

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`."""
        weights = images_BCHW.new_tensor(self.weights)
        return torch.einsum("bchw,c->b", images_BCHW, weights) / images_BCHW[0, 0].numel()


class Compressibility:
    """Minus what JPEG loses: the mean absolute error, in grey levels of 255, of a JPEG-like reconstruction.

    Luminance and chrominance (JFIF) in blocks of 8 x 8, orthonormal DCT, quantised with the tables of ITU-T T.81
    annex K at quality 50; rounding passes its gradient straight through a cubic that fits it at integers
    (Shin and Song 2017, "JPEG-resistant adversarial images": round(x) + (x - round(x))^3).
    """

    name = "compressibility"
    provenance = ""

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`; at most 0."""
        height, width = images_BCHW.shape[2:]
        padded = F.pad(images_BCHW, (0, -width % 8, 0, -height % 8), mode="replicate")
        matrix = images_BCHW.new_tensor(_RGB_TO_YCBCR)
        levels = torch.einsum("dc,bchw->bdhw", matrix, padded) * 255
        levels = levels - levels.new_tensor([128.0, 0.0, 0.0])[:, None, None]
        batch, channels, rows, columns = levels.shape
        blocks = levels.view(batch, channels, rows // 8, 8, columns // 8, 8).transpose(3, 4)
        dct = _dct_matrix().to(levels)
        table = levels.new_tensor(_QUANTISATION)[:, None, None]
        scaled = (dct @ blocks @ dct.T) / table
        rounded = scaled.round()
        lost = scaled - (rounded + (scaled - rounded) ** 3)
        error = dct.T @ (lost * table) @ dct
        return -error.abs().mean((1, 2, 3, 4, 5))


class JpegKilobytes:
    """Minus the size of the picture as a JPEG, in kB of 1000 bytes, at the quality of DDPO (Black et al. 2023).

    A metric: it has no gradient. `Compressibility` is its stand-in to tune on.
    """

    name = "jpeg_kilobytes"
    quality = 95
    provenance = f"JPEG at quality {quality} by Pillow {PIL.__version__}"

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`, but for the gradient."""
        return images_BCHW.new_tensor([-self._size(picture) / 1000 for picture in to_pil(images_BCHW)])

    def _size(self, picture: Image.Image) -> int:
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=self.quality)
        return file.tell()


def _dct_matrix() -> Tensor:
    """The orthonormal DCT-II of eight samples, one basis function a row."""
    frequency, sample = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    matrix = torch.cos((2 * sample + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


_RGB_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)

# ITU-T T.81 annex K, tables K.1 and K.2; at quality 50 they are used as they stand.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
_QUANTISATION = (_LUMINANCE, _CHROMINANCE, _CHROMINANCE)

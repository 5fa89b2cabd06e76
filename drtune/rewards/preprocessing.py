"""What a network sees of a picture: of one that is being made, with a gradient to its pixels, or of a finished one.

Each original reads 8-bit files, and all but HPS and ARNIQA resize in 8 bits, by Pillow. Rounding has no gradient, so
there are two executors of the same description: finished pictures are seen bit for bit as the original sees them, and
tuning sees them in floating point, within 1.25 grey levels of that. Scores of the two are not to be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from drtune.files.images import to_tensor

BY_PILLOW = "resized by Pillow in 8 bits"


@dataclass(frozen=True)
class Preprocessing(ABC):
    """From pictures of any size to a network's input (B, 3, H, W), in at least single precision."""

    side: int
    """Height and width of what the network sees; or what both are multiples of, where it sees rectangles."""
    antialias: bool
    """Of images (B, 3, H, W); Pillow always has it."""

    @abstractmethod
    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """Of RGB images in [0, 1], with a gradient to them."""

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Of finished pictures, as `files.images.open_picture` reads them."""
        return torch.cat([self.of_images(to_tensor([picture])) for picture in pictures])

    @property
    def told(self) -> str:
        """How finished pictures are resized, to be told with their scores."""
        return f"resized with{'' if self.antialias else 'out'} antialias"


class Letterbox(Preprocessing):
    """The longer side resized to `side`, bicubic, zeros around the shorter one, and colours normalised as CLIP's.

    HPS does so with floating-point tensors, files as well (tgxs002/HPSv2 at 866735e, hpsv2/src/open_clip/transform.py:
    ToTensor, then ResizeMaxSize), so both executors are one. It differs in that it fails on a picture with an alpha
    channel in mode RGBA, and leaves one whose longer side is `side` already without its zeros, which fails too.
    """

    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """As `Preprocessing`."""
        return normalised(letterboxed(images_BCHW, self.side, antialias=self.antialias))


class Squeeze(Preprocessing):
    """Both sides resized to `side`, bilinear, and [0, 1] stretched to [-1, 1]: the miniature's."""

    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """As `Preprocessing`."""
        if images_BCHW.shape[-2:] != (self.side, self.side):
            images_BCHW = resize(images_BCHW, self.side, self.side, antialias=self.antialias, mode="bilinear")
        return images_BCHW.to(exact(images_BCHW)) * 2 - 1


class Resized(Preprocessing):
    """Resized by Pillow, bicubic, perhaps cropped, and colours normalised as CLIP's."""

    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """As `Preprocessing`; clamped after each direction, where bicubic overshoots, as Pillow does in 8 bits."""
        rows, columns = self._size(*images_BCHW.shape[-2:])
        wide = resize(images_BCHW, images_BCHW.shape[-2], columns, antialias=self.antialias).clamp(0, 1)
        resized = resize(wide, rows, columns, antialias=self.antialias).clamp(0, 1)
        left, top, right, bottom = self._box(rows, columns)
        return normalised(resized[..., top:bottom, left:right])

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """As `Preprocessing`."""
        return normalised(to_tensor([self._resized(picture) for picture in pictures]))

    @property
    def told(self) -> str:
        """As `Preprocessing`."""
        return BY_PILLOW

    def _resized(self, picture: Image.Image) -> Image.Image:
        rows, columns = self._size(picture.height, picture.width)
        return picture.resize((columns, rows), Image.Resampling.BICUBIC).crop(self._box(rows, columns))

    @abstractmethod
    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns that a picture of this size is resized to."""

    def _box(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """What of them is seen: left, top, right and bottom, as Pillow orders them."""
        return 0, 0, columns, rows


class Crop(Resized):
    """The shorter side resized to `side`, and the centre of the longer one."""

    def _size(self, height: int, width: int) -> tuple[int, int]:
        shorter = min(height, width)
        return self.side * height // shorter, self.side * width // shorter

    def _box(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        top, left = self._start(rows), self._start(columns)
        return left, top, left + self.side, top + self.side

    @abstractmethod
    def _start(self, length: int) -> int:
        """Where the crop begins in one direction."""


class TorchvisionCrop(Crop):
    """As in OpenAI's CLIP, the aesthetic predictor and ImageReward: resized in the file's own mode, and RGB only then.

    (openai/CLIP at d05afc4, clip/clip.py, `_transform`; THUDM/ImageReward at c1392c6, ImageReward/ImageReward.py,
    `_transform`: Resize, CenterCrop, convert.) CenterCrop starts at half of what is left over, a half rounded to even
    (pytorch/vision, torchvision/transforms/functional.py, `center_crop`).
    """

    def _start(self, length: int) -> int:
        return round((length - self.side) / 2)


class TransformersCrop(Crop):
    """As transformers' CLIPImageProcessor, which PickScore uses: RGB first; the crop starts at the floor of the half.

    (yuvalkirstain/PickScore at f79607f, README.md, with transformers 4.27.3: models/clip/image_processing_clip.py and
    image_transforms.py, `center_crop`.)
    """

    def _start(self, length: int) -> int:
        return (length - self.side) // 2

    def _resized(self, picture: Image.Image) -> Image.Image:
        return super()._resized(picture.convert("RGB"))


@dataclass(frozen=True)
class SmartResize(Resized):
    """RGB, resized to multiples of `side` with about the same shape, and nothing cropped.

    As qwen-vl-utils resizes by Pillow for the Qwen-VL networks (QwenLM/Qwen2.5-VL, qwen-vl-utils, `fetch_image`).
    """

    least: int
    """So many pixels are seen at least..."""
    most: int
    """...and at most, as near as whole multiples allow."""

    def _resized(self, picture: Image.Image) -> Image.Image:
        return super()._resized(picture.convert("RGB"))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = smart_resize(height, width, self.side, self.least, self.most)
        return rows, columns


class NetworkReward(ABC):
    """A reward of a network, which sees what `preprocessing` makes of a picture."""

    name: str
    weights: str
    """Which files they came from, with their digests; or ""."""
    preprocessing: Preprocessing

    @property
    def provenance(self) -> str:
        """As `Reward`."""
        return ", ".join(filter(None, (self.weights, self.preprocessing.told)))

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`."""
        return self.judge(self.preprocessing.of_images(images_BCHW), prompts)

    def of_pictures(self, pictures: Sequence[Image.Image], prompts: Sequence[str], device: torch.device) -> Tensor:
        """Rewards (B,) of finished pictures, computed on the device."""
        return self.judge(self.preprocessing.of_pictures(pictures).to(device), prompts)

    @abstractmethod
    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,) of what `preprocessing` gave. The network follows it, to at least single precision.

        It is never rounded below its own, which later scores would keep. Those that are published in half precision
        and compute in it, the vision-language models, stay as they are.
        """


def letterboxed(images_BCHW: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Images (B, 3, side, side): the longer side resized to `side`, bicubic, and zeros around the shorter one."""
    height, width = images_BCHW.shape[-2:]
    scale = side / max(height, width)
    rows, columns = round(height * scale), round(width * scale)
    top, left = (side - rows) // 2, (side - columns) // 2
    resized = resize(images_BCHW, rows, columns, antialias=antialias)
    return F.pad(resized, (left, side - columns - left, top, side - rows - top))


def resize(images_BCHW: Tensor, height: int, width: int, *, antialias: bool, mode: str = "bicubic") -> Tensor:
    """Images (B, 3, height, width), in at least single precision: torch has no kernel for half of it."""
    return F.interpolate(images_BCHW.to(exact(images_BCHW)), (height, width), mode=mode, antialias=antialias)


def normalised(
    images_BCHW: Tensor, means: Sequence[float] = OPENAI_CLIP_MEAN, deviations: Sequence[float] = OPENAI_CLIP_STD
) -> Tensor:
    """Images with mean and deviation of each colour channel of a training set, by default CLIP's, taken off."""
    mean, deviation = (images_BCHW.new_tensor(values)[:, None, None] for values in (means, deviations))
    return (images_BCHW - mean) / deviation


def exact(images_BCHW: Tensor) -> torch.dtype:
    """The precision of the images, but at least single."""
    return torch.promote_types(images_BCHW.dtype, torch.float32)

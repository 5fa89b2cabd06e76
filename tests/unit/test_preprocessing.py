"""What the networks see: held against Pillow, transformers and what torchvision does, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from drtune.rewards.preprocessing import TorchvisionCrop, TransformersCrop, letterboxed
from tests.words import as_tensor, colours, picture


@pytest.mark.parametrize("size", [(512, 512), (300, 517), (640, 211), (100, 90), (224, 150), (224, 224)])
def test_letterboxing_is_pils_resizing_with_zeros_around(size: tuple[int, int]) -> None:
    image = picture(*size)
    scale = 224 / max(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    expected = torch.zeros(3, 224, 224)
    left, top = (224 - width) // 2, (224 - height) // 2
    for channel, levels in enumerate(image.split()):
        resized = Image.fromarray(np.float32(levels) / 255).resize((width, height), Image.Resampling.BICUBIC)
        expected[channel, top : top + height, left : left + width] = torch.from_numpy(np.array(resized))
    torch.testing.assert_close(letterboxed(as_tensor(image), 224, antialias=True)[0], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("size", [(512, 512), (300, 517), (640, 211), (100, 90), (225, 224), (224, 224)])
def test_cropping_is_clips_own_image_processor_to_a_grey_level(size: tuple[int, int]) -> None:
    image = picture(*size)
    processor = CLIPImageProcessorPil(do_normalize=False)
    expected = processor(image, return_tensors="pt").pixel_values
    cropped = colours(TransformersCrop(224, True).of_images(as_tensor(image)))
    assert (cropped - expected).abs().max() < 1.25 / 255  # it rounds to 8 bits, once for each direction


SIZES = [(512, 512), (300, 517), (1216, 832), (832, 1216), (1344, 768), (100, 90), (224, 224)]


@pytest.mark.parametrize(
    ("mode", "size"),
    [*(("RGB", size) for size in SIZES), *((mode, (300, 517)) for mode in ("RGBA", "LA", "L", "P", "CMYK"))],
)
def test_a_finished_picture_is_cropped_bit_for_bit_as_by_transformers_and_torchvision(
    mode: str, size: tuple[int, int]
) -> None:
    image = picture(*size).convert(mode)
    if "A" in mode:
        image.putalpha(picture(*size).convert("L").rotate(180))
    processor = CLIPImageProcessorPil()
    expected = processor(image.convert("RGB"), return_tensors="pt").pixel_values  # later ones put alpha on white
    assert (TransformersCrop(224, True).of_pictures([image]) - expected).abs().max() < 1e-6

    width, height = size  # torchvision's Resize and CenterCrop, then RGB
    columns, rows = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    left, top = round((columns - 224) / 2.0), round((rows - 224) / 2.0)
    resized = image if size == (columns, rows) else image.resize((columns, rows), Image.Resampling.BICUBIC)
    window = np.array(resized.crop((left, top, left + 224, top + 224)).convert("RGB"))
    seen = colours(TorchvisionCrop(224, True).of_pictures([image]))[0]
    assert np.abs(seen.numpy() * 255 - window.transpose(2, 0, 1)).max() < 1e-3


@pytest.mark.parametrize(("crop", "start"), [(TransformersCrop, 51), (TorchvisionCrop, 52)])
@pytest.mark.parametrize("size", [(1216, 832), (832, 1216)])
def test_tuning_crops_where_the_finished_picture_is_cropped(
    crop: type[TransformersCrop | TorchvisionCrop], start: int, size: tuple[int, int]
) -> None:
    image, preprocessing = picture(*size), crop(224, True)
    apart = colours(preprocessing.of_images(as_tensor(image))) - colours(preprocessing.of_pictures([image]))
    assert apart.abs().max() < 1.25 / 255
    assert preprocessing._start(327) == start


def test_without_antialias_a_fine_pattern_survives() -> None:
    stripes = (torch.arange(448) % 2).float().expand(1, 3, 448, 448)
    smooth, rough = (letterboxed(stripes, 112, antialias=antialias) for antialias in (True, False))
    assert smooth.std() < 0.1
    assert rough.mean() == pytest.approx(0.5, abs=0.01)
    assert not torch.allclose(smooth, letterboxed(as_tensor(picture(448, 448)), 112, antialias=False))

"""Rewards without public weights: values that can be computed by hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from drtune.files.images import to_pil
from drtune.models.miniature.world import draw, scenes
from drtune.rewards import Reward, load_reward

DRAWN = scenes(seed=123, count=8)
PROMPTS = [scene.caption for scene in DRAWN]
IMAGES = draw(DRAWN, seed=124)


def reward_of(name: str) -> Reward:
    return load_reward(name, antialias=True)


def test_symmetry_of_a_mirrored_picture_is_one() -> None:
    mirrored = (IMAGES + IMAGES.flip(-1)) / 2
    torch.testing.assert_close(reward_of("symmetry")(mirrored, PROMPTS), torch.ones(8))


def test_symmetry_by_hand() -> None:
    image = torch.zeros(1, 3, 2, 2)
    image[..., 0] = 1.0  # left half white: |x - flip| is 1, |x - mean| is 1/2
    assert reward_of("symmetry")(image, [""]).item() == pytest.approx(1 - 1 / 1.03, rel=1e-4)


def test_raw_symmetry_by_hand_and_that_a_blank_picture_has_it_all() -> None:
    image = torch.zeros(2, 3, 2, 2)
    image[0, ..., 0] = 0.75
    assert reward_of("raw_symmetry")(image, ["", ""]).tolist() == [-0.75, 0]


def test_the_size_as_a_jpeg_is_that_of_the_file_pillow_writes(tmp_path: Path) -> None:
    scores = reward_of("jpeg_kilobytes")(IMAGES, PROMPTS)
    for score, picture in zip(scores, to_pil(IMAGES), strict=True):
        picture.save(tmp_path / "picture.jpg", quality=95)
        assert -1000 * score.item() == pytest.approx((tmp_path / "picture.jpg").stat().st_size)
    assert not reward_of("jpeg_kilobytes")(IMAGES.clone().requires_grad_(), PROMPTS).requires_grad


def test_fading_the_picture_to_half_its_contrast_gains_little_symmetry() -> None:
    faded = 0.5 + 0.5 * (IMAGES - 0.5)
    symmetry = reward_of("symmetry")
    assert (symmetry(faded, PROMPTS) - symmetry(IMAGES, PROMPTS)).abs().max() < 0.1


def test_brightness_by_hand() -> None:
    image = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert reward_of("brightness")(image, [""]).item() == pytest.approx(0.299 + 0.5 * 0.587 + 0.25 * 0.114)


def test_compressibility_of_a_grey_picture_is_perfect() -> None:
    grey = torch.full((1, 3, 16, 16), 128 / 255)
    assert reward_of("compressibility")(grey, [""]).item() == pytest.approx(0, abs=1e-3)


def test_compressibility_orders_pictures_as_jpeg_does() -> None:
    blur = torch.nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False)
    noise = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(1))
    worse_and_worse = [blur(IMAGES), IMAGES, 0.9 * IMAGES + 0.1 * noise, 0.7 * IMAGES + 0.3 * noise]
    scores = [reward_of("compressibility")(images, PROMPTS).mean().item() for images in worse_and_worse]
    sizes = [sum(jpeg_bytes(image) for image in to_pil(images)) for images in worse_and_worse]
    assert scores == sorted(scores, reverse=True)
    assert sizes == sorted(sizes)


def jpeg_bytes(image: Image.Image) -> int:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=50)
    return file.tell()


def test_compressibility_takes_sides_that_are_no_multiple_of_eight() -> None:
    scores = reward_of("compressibility")(IMAGES[:, :, :30, :19], PROMPTS)
    assert torch.isfinite(scores).all()


def test_preference_knows_which_caption_belongs_to_which_picture() -> None:
    preference = reward_of("preference")
    right = preference(IMAGES, PROMPTS)
    wrong = preference(IMAGES, PROMPTS[1:] + PROMPTS[:1])
    assert (right > wrong).float().mean() >= 7 / 8


def test_preference_looks_at_pictures_of_any_size_with_antialias_or_without() -> None:
    large = torch.nn.functional.interpolate(IMAGES, (96, 64), mode="nearest")
    smooth, rough = (load_reward("preference", antialias=antialias) for antialias in (True, False))
    assert (smooth(large, PROMPTS) - rough(large, PROMPTS)).abs().max() > 1e-4
    assert (smooth.provenance, rough.provenance) == ("resized with antialias", "resized without antialias")

"""The drawn world: the same from the same seed, and drawn as the caption says."""

from __future__ import annotations

import random

import torch

from drtune.models.miniature.world import BACKGROUNDS, COLOURS, IMAGE_SIZE, PLACES, Scene, Thing, draw, scenes
from tools.miniature.preference import misread


def scene_of(*things: Thing, background: str = "white") -> Scene:
    return Scene("", background, things)


def test_scenes_and_drawings_depend_on_their_seed_alone() -> None:
    assert scenes(seed=1, count=50) == scenes(seed=1, count=50)
    assert scenes(seed=1, count=50)[:10] == scenes(seed=1, count=10)
    assert scenes(seed=1, count=50) != scenes(seed=2, count=50)
    drawn = scenes(seed=1, count=4)
    assert torch.equal(draw(drawn, seed=3), draw(drawn, seed=3))
    assert not torch.equal(draw(drawn, seed=3), draw(drawn, seed=4))


def test_pictures_are_rgb_in_zero_to_one() -> None:
    images = draw(scenes(seed=5, count=32), seed=6)
    assert images.shape == (32, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert images.min() >= 0
    assert images.max() <= 1


def test_an_object_has_its_colour_at_its_place_and_the_background_elsewhere() -> None:
    for colour, rgb in COLOURS.items():
        x, y = PLACES["in the bottom right"]
        image = draw([scene_of(Thing(colour, "square", x, y, 6.0))], seed=0)[0]
        assert torch.allclose(image[:, int(y), int(x)], torch.tensor(rgb), atol=0.06)
        corner = image[:, 2:6, 2:6].mean((1, 2))
        assert torch.allclose(corner, (torch.tensor(BACKGROUNDS["white"]) * 1.12).clamp(max=1), atol=0.04)


def test_shapes_differ_in_area_as_geometry_says() -> None:
    def area(shape: str) -> float:
        with_object = draw([scene_of(Thing("blue", shape, 16.0, 16.0, 10.0), background="night")], seed=0)[0, 2]
        without = draw([scene_of(background="night")], seed=0)[0, 2]
        return float((with_object - without).sum()) / (COLOURS["blue"][2] - BACKGROUNDS["night"][2]) / 100

    assert abs(area("circle") - 3.14) < 0.15
    assert abs(area("square") - 1.7**2) < 0.15
    assert abs(area("diamond") - 2 * 1.15**2) < 0.2
    assert abs(area("ring") - 3.14 * (1 - 0.48**2)) < 0.2
    assert abs(area("cross") - (4 * 0.6 - 0.36)) < 0.2


def test_captions_read_well() -> None:
    captions = [scene.caption for scene in scenes(seed=8, count=500)]
    assert not any(" a o" in caption or caption.startswith("a o") for caption in captions)
    assert any(caption.startswith("an orange") for caption in captions)
    assert all(caption.endswith(" background") for caption in captions)
    assert len(set(captions)) > 450


def test_a_misread_scene_keeps_its_caption_and_differs_in_what_is_drawn() -> None:
    rng = random.Random(0)
    for scene in scenes(seed=9, count=300):
        wrong = misread(scene, rng)
        assert wrong.caption == scene.caption
        assert (wrong.things, wrong.background) != (scene.things, scene.background)

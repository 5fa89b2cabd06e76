"""The drawn world that the miniature is trained on: scenes, their captions and their images, all from a seed.

A scene holds one or two objects of distinct colours on a plain, shaded background:

    "a small red circle on the left, on a white background"
    "a blue ring above a yellow cross, on a night background"

8 colours x 6 shapes x 6 backgrounds x 3 sizes x 9 places. What a caption leaves unsaid is drawn at random.
Shapes of tensors: B batch, H = W = 32 pixels, O objects (2, the second may be absent).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_SIZE = 32

COLOURS = {
    "red": (0.86, 0.13, 0.15),
    "orange": (0.96, 0.55, 0.10),
    "yellow": (0.97, 0.87, 0.18),
    "green": (0.16, 0.62, 0.24),
    "cyan": (0.15, 0.75, 0.80),
    "blue": (0.15, 0.28, 0.82),
    "purple": (0.54, 0.20, 0.72),
    "pink": (0.96, 0.52, 0.72),
}
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.94),
    "grey": (0.56, 0.57, 0.58),
    "night": (0.07, 0.08, 0.13),
    "sand": (0.80, 0.70, 0.52),
    "forest": (0.12, 0.27, 0.20),
    "wine": (0.34, 0.09, 0.17),
}
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
SIZES = {"small": 6.0, "": 8.0, "large": 10.0}  # radius in pixels
PLACES = {  # centre as (x, y), in pixels
    "on the left": (9.5, 16.0),
    "on the right": (22.5, 16.0),
    "at the top": (16.0, 9.5),
    "at the bottom": (16.0, 22.5),
    "in the centre": (16.0, 16.0),
    "in the top left": (9.5, 9.5),
    "in the top right": (22.5, 9.5),
    "in the bottom left": (9.5, 22.5),
    "in the bottom right": (22.5, 22.5),
}
RELATIONS = {  # centres of the first and of the second object
    "left of": ((8.5, 16.0), (23.5, 16.0)),
    "right of": ((23.5, 16.0), (8.5, 16.0)),
    "above": ((16.0, 8.5), (16.0, 23.5)),
    "below": ((16.0, 23.5), (16.0, 8.5)),
}
PAIR_RADIUS = 6.5


@dataclass(frozen=True)
class Thing:
    """One drawn object: colour and shape by name, centre and radius in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What is to be seen, and the caption that says it."""

    caption: str
    background: str
    things: tuple[Thing, ...]


def random_scene(rng: random.Random) -> Scene:
    """Draw one scene; three in ten show two objects."""
    background = rng.choice(list(BACKGROUNDS))
    first_colour, second_colour = rng.sample(list(COLOURS), 2)
    first_shape, second_shape = rng.choice(SHAPES), rng.choice(SHAPES)

    def place(colour: str, shape: str, centre: tuple[float, float], radius: float) -> Thing:
        x, y = (c + rng.uniform(-1.0, 1.0) for c in centre)
        return Thing(colour, shape, x, y, radius * rng.uniform(0.94, 1.06))

    if rng.random() < 0.3:
        relation, centres = rng.choice(list(RELATIONS.items()))
        said = f"{_noun(first_colour, first_shape)} {relation} {_noun(second_colour, second_shape)}"
        things: tuple[Thing, ...] = (
            place(first_colour, first_shape, centres[0], PAIR_RADIUS),
            place(second_colour, second_shape, centres[1], PAIR_RADIUS),
        )
    else:
        size, radius = rng.choice(list(SIZES.items()))
        where, centre = rng.choice(list(PLACES.items()))
        words = [_noun(size, first_colour, first_shape)] + ([where] if rng.random() < 0.85 else [])
        said = " ".join(words)
        things = (place(first_colour, first_shape, centre, radius),)
    return Scene(f"{said}, on a {background} background", background, things)


def _noun(*words: str) -> str:
    """The words with their article: `_noun("", "orange", "ring")` is "an orange ring"."""
    said = " ".join(word for word in words if word)
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"


def scenes(seed: int, count: int) -> list[Scene]:
    """`count` scenes that depend on `seed` alone."""
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def draw(drawn: list[Scene], *, seed: int) -> Tensor:
    """Render scenes to images (B, 3, H, W) in [0, 1]: anti-aliased, lit from the upper left, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.arange(IMAGE_SIZE) + 0.5
    grid_y, grid_x = torch.meshgrid(pixels, pixels, indexing="ij")

    backgrounds = torch.tensor([BACKGROUNDS[scene.background] for scene in drawn])
    light = 1.14 - 0.14 * (grid_x + grid_y) / IMAGE_SIZE
    images = backgrounds[:, :, None, None] * light
    for slot in range(2):
        present = [scene.things[slot] if slot < len(scene.things) else None for scene in drawn]
        cover, shade = _cover(present, grid_x, grid_y)
        colours = torch.tensor([COLOURS[thing.colour] if thing else (0.0, 0.0, 0.0) for thing in present])
        images = images * (1 - cover) + cover * colours[:, :, None, None] * shade
    noise = torch.randn(images.shape, generator=generator)
    return (images + 0.008 * noise).clamp(0, 1)


def _cover(things: list[Thing | None], grid_x: Tensor, grid_y: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel an object covers (B, 1, H, W) in [0, 1], and its shading (B, 1, H, W) around 1."""
    geometry = torch.tensor([(t.x, t.y, t.radius) if t else (-99.0, -99.0, 1.0) for t in things])
    x, y, radius = (geometry[:, i, None, None] for i in range(3))
    distances = _signed_distances((grid_x - x) / radius, (grid_y - y) / radius)
    index = torch.tensor([SHAPES.index(t.shape) if t else 0 for t in things])
    chosen = distances[torch.arange(len(things)), index] * radius
    cover = (0.5 - chosen).clamp(0, 1)
    shade = 1.0 - 0.1 * ((grid_x - x + grid_y - y) / radius).clamp(-1.5, 1.5)
    return cover[:, None], shade[:, None]


def _signed_distances(u: Tensor, v: Tensor) -> Tensor:
    """Distance to the edge of each of SHAPES at unit radius, negative inside: (B, 6, H, W)."""
    au, av = u.abs(), v.abs()
    circle = (u**2 + v**2).sqrt() - 1.0
    square = torch.maximum(au, av) - 0.85
    triangle = torch.maximum(0.894 * au - 0.447 * (v + 1.0), v - 0.85)
    diamond = (au + av - 1.15) * 0.707
    ring = ((u**2 + v**2).sqrt() - 0.74).abs() - 0.26
    cross = torch.minimum(torch.maximum(au - 0.3, av - 1.0), torch.maximum(av - 0.3, au - 1.0))
    return torch.stack([circle, square, triangle, diamond, ring, cross], dim=1)

"""Compositional prompts of the miniature's world, judged by the classifier that knows nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from PIL import Image
from torch import Tensor

from drtune.files.images import to_tensor
from drtune.files.local import sha256_file
from drtune.models.miniature import CHECKPOINT
from drtune.models.miniature.places import place_of
from drtune.models.miniature.probe import Seen, load_probe, position_is_right
from drtune.models.miniature.world import IMAGE_SIZE, Scene, random_scene
from drtune.prompts.prepare import Prompt

SEED = 64_000
"""Of the scenes, which no network of the miniature was trained on."""
CATEGORIES = ("colors", "position", "counting", "color_attr")
"""Named as GenEval's: an object of a colour; where it stands; how many there are; two, each in its own colour."""


class WorldJudge:
    """The miniature's probe, asked for what captions of `count` scenes say."""

    name = "probe"

    def __init__(self, count: int) -> None:
        self.probe = load_probe(CHECKPOINT)
        self.asked = {scene.caption: (category, scene) for category, scene in islice(_scenes(), count)}

    @property
    def provenance(self) -> str:
        """The digest of the probe."""
        return f"the miniature's probe sha256 {sha256_file(CHECKPOINT / 'probe.safetensors')}"

    @property
    def prompts(self) -> list[Prompt]:
        """The captions."""
        return [Prompt(caption, category) for caption, (category, _) in self.asked.items()]

    def answers(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str]
    ) -> list[dict[str, float]]:
        """As `Judge`: 1 for what is seen, 0 for what is not."""
        small = [picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE)) for picture in pictures]
        every = self.probe.to(images_BCHW.device).look(to_tensor(small).to(images_BCHW.device))
        return [_answers(*self.asked[prompt], seen) for prompt, seen in zip(prompts, every, strict=True)]


def _scenes() -> Iterator[tuple[str, Scene]]:
    """Scenes without end, the categories in turn, no caption twice."""
    rng = random.Random(SEED)
    known: set[str] = set()
    while True:
        for category in CATEGORIES:
            while not _fits(category, scene := random_scene(rng)):
                pass
            if scene.caption not in known:
                known.add(scene.caption)
                yield category, scene


def _fits(category: str, scene: Scene) -> bool:
    """Whether a scene asks for what a category is about."""
    if category in ("counting", "color_attr"):
        return len(scene.things) == 2
    is_placed = place_of(scene.caption) is not None
    return len(scene.things) == 1 and is_placed == (category == "position")


def _answers(category: str, scene: Scene, seen: Seen) -> dict[str, float]:
    if category == "counting":
        return {"exactly two objects": float(len(seen.things) == 2)}
    shapes = {colour: thing.shape for colour, thing in seen.things.items()}
    answers = {f"{one.colour} {one.shape}": float(shapes.get(one.colour) == one.shape) for one in scene.things}
    if category == "colors":
        answers[f"{scene.background} background"] = float(seen.background == scene.background)
    if category == "position":
        answers["in its place"] = float(bool(position_is_right(scene, seen)))
    return answers

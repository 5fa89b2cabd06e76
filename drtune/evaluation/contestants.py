"""Those who are compared: models that draw for the evaluation, and references whose pictures exist already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from drtune.config import Config
from drtune.contracts import TunedModel
from drtune.evaluation.references import Pictures, Unused
from drtune.files.images import to_pil
from drtune.models.base import Base
from drtune.models.drawing import draw
from drtune.models.loading import load_base
from drtune.models.tuned import put_on
from drtune.prompts.shots import Shot

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Make = Callable[[Sequence[Shot], Path], list[str]]
"""Writes the pictures of some shots into a folder; their files' names, "" where there is no picture."""


@dataclass(frozen=True)
class Drawn:
    """A model: a base alone, or with tuned weights on it. It draws at the candidate's deployment settings."""

    name: str
    role: Literal["base", "candidate", "champion"]
    config: Config
    """Of the candidate, with height and width stated."""
    base_model: str
    base_revision: str | None
    tuned: tuple[Path, TunedModel] | None = None

    draws: ClassVar[bool] = True
    problems: ClassVar[Sequence[Unused]] = ()

    @property
    def source(self) -> str:
        """The base, its revision, and how often it was updated."""
        base = f"{self.base_model} at {self.base_revision}" if self.base_revision else self.base_model
        return f"{base}, tuned by {self.tuned[1].step} updates" if self.tuned else base

    @property
    def sha256(self) -> str | None:
        """Of the tuned weights."""
        return self.tuned[1].weights_sha256 if self.tuned else None

    @contextmanager
    def open(self) -> Iterator[Make]:
        """Load the model onto the GPU, if there is one."""
        base = load_for(self.config, self.base_model, self.base_revision)
        base.pipeline.to(DEVICE)
        if self.tuned:
            put_on(base, *self.tuned)
        settings = self.config.evaluation

        def make(shots: Sequence[Shot], folder: Path) -> list[str]:
            names = [f"{shot.name}.png" for shot in shots]
            images_BCHW = draw(
                base,
                base.encode([shot.prompt.text for shot in shots]),
                base.encode_negative(settings.sampler.negative_prompt),
                [shot.noise_seed(settings.seed) for shot in shots],
                steps=settings.sampler.steps,
                guidance_scale=settings.sampler.guidance_scale,
            )
            for name, picture in zip(names, to_pil(images_BCHW), strict=True):
                picture.save(folder / name)
            return names

        yield make


def load_for(config: Config, base_model: str, base_revision: str | None) -> Base:
    """A base at the precision and size of a configuration."""
    precision, height, width = config.compute.precision, config.height, config.width
    return load_base(base_model, base_revision, precision=precision, height=height, width=width)


@dataclass(frozen=True)
class Shown:
    """A reference: pictures that somebody brings, such as Midjourney's, found by their prompts."""

    name: str
    source: str
    pictures: Pictures

    role: ClassVar[Literal["reference"]] = "reference"
    draws: ClassVar[bool] = False

    @property
    def sha256(self) -> str:
        """Of all its pictures that are used."""
        return self.pictures.sha256

    @property
    def problems(self) -> Sequence[Unused]:
        """Those that are not."""
        return self.pictures.problems

    @contextmanager
    def open(self) -> Iterator[Make]:
        """Its pictures are copied as they are."""

        def make(shots: Sequence[Shot], folder: Path) -> list[str]:
            names = []
            for shot in shots:
                source = self.pictures.of(shot)
                names.append(f"{shot.name}{source.suffix.lower()}" if source else "")
                if source:
                    shutil.copyfile(source, folder / names[-1])
            return names

        yield make


Entrant = Drawn | Shown
"""One of those who are compared. `problems` are pictures that cannot be used; those of one that `draws` come from the
evaluation's own noise and so can be held against the base's."""

"""Those who are compared: models that draw for the evaluation, and references whose pictures exist already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from drtune.config import Config, EvaluationConfig
from drtune.contracts import TunedModel
from drtune.evaluation.references import ReferencePictures, Unused, find_pictures
from drtune.files.folders import opened
from drtune.files.images import to_pil
from drtune.models.base import Base, Conditions, EncodedPrompts
from drtune.models.drawing import draw
from drtune.models.loading import DEVICE, load_base
from drtune.models.tuned import open_tuned, put_on, rescale, take_off
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import Shot


class LoadedModel:
    """The one model that is on the GPU, if there is one. Another takes its place by the shortest way.

    An adapter is put on and taken off; a base is loaded only where it is another one, or full weights replaced it.

    Args:
        config: The candidate's.
        texts: All prompts that will be drawn.
        load: What loads a base.
    """

    def __init__(self, config: Config, texts: Iterable[str], load: Callable[..., Base] = load_base) -> None:
        self.precision, self.height, self.width = config.compute.precision, config.height, config.width
        self.negative_prompt = config.evaluation.sampler.negative_prompt
        self.rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._load = load
        self._base: Base | None = None
        self._encoded: EncodedPrompts | None = None
        self.negative: Conditions = {}
        self._source: tuple[str, str | None] | None = None
        self._tuned: tuple[Path, TunedModel] | None = None
        self._scale = 1.0

    def become(
        self,
        base_model: str,
        revision: str | None,
        tuned: tuple[Path, TunedModel] | None = None,
        scale: float = 1.0,
    ) -> Base:
        """The base, with those tuned weights on it. Without a height or width, the first base says what it is.

        `scale` is how much of an adapter counts.

        The base is the caller's until it asks for another.
        """
        if self._base and self._tuned and self._tuned != tuned and self._tuned[1].weights == "lora":
            take_off(self._base)
            self._tuned = None
        if not self._base or self._source != (base_model, revision) or self._tuned not in (None, tuned):
            self.close()  # before the next one needs the memory
            self._base = self._load(
                base_model, revision, precision=self.precision, height=self.height, width=self.width
            )
            with self._base.encoding_on(DEVICE):
                self._encoded = EncodedPrompts(self._base, {row: text for text, row in self.rows.items()})
                self.negative = self._base.encode_negative(self.negative_prompt)
            self._base.pipeline.to(DEVICE)
            self._source, self.height, self.width = (base_model, revision), self._base.height, self._base.width
        if tuned and not self._tuned:
            put_on(self._base, *tuned)
            self._tuned, self._scale = tuned, 1.0
        if tuned and scale != self._scale:
            rescale(self._base, scale)
            self._scale = scale
        return self._base

    def conditions(self, texts: Sequence[str]) -> Conditions:
        """Those of some of the prompts, by the text encoders of the base that is there."""
        assert self._encoded is not None
        return self._encoded[[self.rows[text] for text in texts]]

    def close(self) -> None:
        """Give its memory back."""
        self._base = self._tuned = self._encoded = None
        self.negative = {}


@dataclass(frozen=True)
class DrawnContestant:
    """A model: a base alone, or with tuned weights on it. It draws at the candidate's deployment settings."""

    name: str
    role: Literal["base", "candidate", "champion"]
    settings: EvaluationConfig
    loaded: LoadedModel
    """Which all models share."""
    base_model: str
    base_revision: str | None
    tuned: tuple[Path, TunedModel] | None = None
    scale: float = 1.0
    """How much of the adapter counts."""

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

    def write_pictures(self, shots: Sequence[Shot], folder: Path) -> list[str]:
        """Draw the pictures of some shots into a folder; returns their files' names."""
        base = self.loaded.become(self.base_model, self.base_revision, self.tuned, self.scale)
        sampler = self.settings.sampler
        images_BCHW = draw(
            base,
            self.loaded.conditions([shot.prompt.text for shot in shots]),
            self.loaded.negative,
            [shot.noise_seed(self.settings.seed) for shot in shots],
            steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            base_steps=sampler.base_steps,
        )
        names = [f"{shot.name}.png" for shot in shots]
        for name, picture in zip(names, to_pil(images_BCHW), strict=True):
            picture.save(folder / name)
        return names


@dataclass(frozen=True)
class ReferenceContestant:
    """A reference: pictures that somebody brings, such as Midjourney's, found by their prompts."""

    name: str
    source: str
    pictures: ReferencePictures

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

    def write_pictures(self, shots: Sequence[Shot], folder: Path) -> list[str]:
        """Copy the pictures of some shots into a folder, as they are; returns their names, "" where there is none."""
        names = []
        for shot in shots:
            source = self.pictures.of(shot)
            names.append(f"{shot.name}{source.suffix.lower()}" if source else "")
            if source:
                shutil.copyfile(source, folder / names[-1])
        return names


AnyContestant = DrawnContestant | ReferenceContestant
"""`problems` are pictures that cannot be used. One that `draws` does so from the evaluation's own noise, so that its
pictures can be held against the base's."""


def drawn_contestants(
    loaded: LoadedModel, settings: EvaluationConfig, folder: Path, model: TunedModel, champion: str | Path | None
) -> Iterator[DrawnContestant]:
    """Those who draw, the base first, then what becomes of it."""
    base = model.base_model, model.base_revision
    yield DrawnContestant("base", "base", settings, loaded, *base)
    yield DrawnContestant("candidate", "candidate", settings, loaded, *base, (folder, model))
    if champion is not None:
        reigning, _ = open_tuned(champion)
        base = reigning.base_model, reigning.base_revision
        yield DrawnContestant("champion", "champion", settings, loaded, *base, (Path(champion), reigning))


def reference_contestants(
    places: Mapping[str, str], prompts: Sequence[Prompt], pictures_per_prompt: int, unpacking: ExitStack
) -> Iterator[ReferenceContestant]:
    """Those who bring their pictures."""
    for name, place in places.items():
        folder = unpacking.enter_context(opened(f"reference {name}", place))
        yield ReferenceContestant(name, place, find_pictures(name, folder, prompts, pictures_per_prompt))

"""A folder of pictures that were drawn from prompts by a tuned model or a base: what `drtune sample` writes.

What is refused is refused before torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drtune.config import Config, DeploymentSamplerConfig
from drtune.contracts import Contract
from drtune.errors import UserError
from drtune.files.images import to_pil
from drtune.files.local import replacing
from drtune.files.output import base_folder, claimed
from drtune.files.progress import Progress
from drtune.files.sheets import contact_sheet
from drtune.models.miniature.cores import is_small, take_one_thread
from drtune.models.tuned import open_tuned, put_on, rescale

if TYPE_CHECKING:
    from drtune.models.base import Base, Conditions, EncodedPrompts

GRID = "grid.png"
GRID_COLUMNS = 8


class Picture(Contract):
    """One picture of a SampleSet.

    >>> Picture(file="000-a-red-circle-seed-0.png", prompt="a red circle", seed=0, tuned=True)
    """

    file: str
    prompt: str
    seed: int
    """Of the initial noise, which is the same on every machine, whatever else is drawn."""
    tuned: bool
    """Whether the tuned weights made it, or the base alone."""


class SampleSet(Contract):
    """Pictures in a folder, and what made them.

    >>> SampleSet(base_model="miniature", base_revision=None, weights_sha256="77ab...", precision="fp32",
    ...           arguments={"num_inference_steps": 12, "guidance_scale": 3.0}, lora_scale=1.0,
    ...           pictures=(Picture(...),))
    """

    kind: Literal["SampleSet/1"] = "SampleSet/1"
    base_model: str
    base_revision: str | None
    """The commit of a base of the hub; None: a local folder or the miniature, which have none."""
    weights_sha256: str | None
    """Digest of the tuned weights; None: the base alone."""
    precision: str
    arguments: dict[str, str | int | float]
    """What the pipeline was given besides the prompt; the rest was its own default."""
    lora_scale: float
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are drawn. None: as the tuned model's evaluation has it, or for a base alone its pipeline."""

    seed: int = 0
    count: int = 1
    """Pictures of each prompt, with one seed after the other."""
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    lora_scale: float = 1.0
    """How much of the adapter: 0 is the base, 1 is what was trained."""
    precision: str | None = None
    """None: as it was tuned, fp32 for a base alone."""
    compare: bool = False
    """The base's pictures from the same noise, too."""
    base_steps: int = 0
    """So many of the first steps are the base's; taken from the tuned model's evaluation."""
    negative_prompt: str = ""
    """Likewise."""
    grid: bool = False
    """All pictures on one sheet; with `compare` in any case, base and tuned side by side."""


def write_sample_set(
    prompts: Sequence[str],
    out: str | Path,
    settings: SampleSettings,
    *,
    model_folder: str | Path | None = None,
    base_model: str | None = None,
    prompts_file: str | Path | None = None,
    overwrite: bool = False,
) -> SampleSet:
    """Draw pictures with the TunedModel in `model_folder`, or with a base alone; write them and a SampleSet to `out`.

    Where the prompts were read from a file, it is named so that nothing is written in its place.

    Raises:
        UserError: the model is not what its manifest says, has no adapter to scale, or something stands at `out`.
    """
    if model_folder is not None:
        model, config = open_tuned(model_folder)
    else:
        model, config = None, Config(base_model=base_model or Config().base_model)
    inputs = [model_folder, base_folder(config.base_model), prompts_file]
    with claimed(out, "SampleSet", overwrite=overwrite, inputs=inputs) as out:
        if settings.lora_scale != 1 and (model is None or model.weights == "full"):
            raise UserError(f"lora_scale={settings.lora_scale}: there is no adapter that could be scaled; leave it out")
        if model is not None:
            settings = _as_deployed(settings, config.evaluation.sampler)
        from drtune.models.base import EncodedPrompts
        from drtune.models.index import commit_of
        from drtune.models.loading import DEVICE, load_base, quiet_libraries

        quiet_libraries()
        if is_small(config.base_model):
            take_one_thread()
        precision = settings.precision or config.compute.precision
        height = config.height if settings.height is None else settings.height
        width = config.width if settings.width is None else settings.width
        revision = commit_of(config.base_model, config.base_revision)
        base = load_base(config.base_model, revision, precision=precision, height=height, width=width)
        with base.encoding_on(DEVICE):  # one at a time: what else is encoded with a prompt would change its last bits
            encoded = EncodedPrompts(base, dict(enumerate(prompts)), batch_size=1)
            negative = base.encode_negative(settings.negative_prompt)
        base.pipeline.to(DEVICE)

        images: dict[bool, list[Image.Image]] = {}
        total = len(prompts) * settings.count * (1 + settings.compare)
        with Progress("sample", total, "image") as progress:
            if model is None or settings.compare:
                images[False] = _draw_all(base, encoded, negative, settings, progress)
            if model_folder is not None and model is not None:
                put_on(base, model_folder, model)
                if model.weights == "lora":
                    rescale(base, settings.lora_scale)
                images[True] = _draw_all(base, encoded, negative, settings, progress)

        drawn = SampleSet(
            base_model=config.base_model,
            base_revision=revision,
            weights_sha256=model.weights_sha256 if model else None,
            precision=precision,
            arguments=_arguments(base, settings),
            lora_scale=settings.lora_scale,
            pictures=tuple(picture for tuned in images for picture in _pictures(prompts, settings, tuned=tuned)),
        )
        _write(drawn, list(chain.from_iterable(images.values())), out, settings)
        return drawn


def _as_deployed(settings: SampleSettings, deployment: DeploymentSamplerConfig) -> SampleSettings:
    """The settings, with the deployment's where they say nothing.

    Raises:
        UserError: they are for no more steps than the base makes.
    """
    if settings.steps is not None and settings.steps <= deployment.base_steps:
        raise UserError(f"steps={settings.steps}: the first {deployment.base_steps} are the base's; give more")
    return replace(
        settings,
        base_steps=deployment.base_steps,
        negative_prompt=deployment.negative_prompt,
        steps=deployment.steps if settings.steps is None else settings.steps,
        guidance_scale=deployment.guidance_scale if settings.guidance_scale is None else settings.guidance_scale,
    )


def _arguments(base: Base, settings: SampleSettings) -> dict[str, str | int | float]:
    """What the pipeline is given besides the prompt."""
    scale = settings.guidance_scale
    given = {
        "height": base.height,
        "width": base.width,
        "num_inference_steps": settings.steps,
        **({} if scale is None else base.guidance_argument(scale)),
        "negative_prompt": settings.negative_prompt if settings.negative_prompt or base.names_negative else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _seeds(settings: SampleSettings) -> range:
    return range(settings.seed, settings.seed + settings.count)


def _pictures(prompts: Sequence[str], settings: SampleSettings, *, tuned: bool) -> list[Picture]:
    """The pictures of one side, in the order in which they are drawn."""
    folder = "base/" if settings.compare and not tuned else ""
    return [
        Picture(file=f"{folder}{index:03d}-{_slug(prompt)}-seed-{seed}.png", prompt=prompt, seed=seed, tuned=tuned)
        for index, prompt in enumerate(prompts)
        for seed in _seeds(settings)
    ]


def _draw_all(
    base: Base, encoded: EncodedPrompts, negative: Conditions, settings: SampleSettings, progress: Progress
) -> list[Image.Image]:
    """One at a time: how many others are drawn with it would change a picture's last bits."""
    from drtune.models.drawing import draw

    images = []
    for index in encoded.rows:
        conditions = encoded[[index]]
        for seed in _seeds(settings):
            drawn = draw(
                base,
                conditions,
                negative,
                [seed],
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                base_steps=settings.base_steps,
            )
            images += to_pil(drawn)
            progress.update()
    return images


def _write(drawn: SampleSet, images: Sequence[Image.Image], out: Path, settings: SampleSettings) -> None:
    about = {True: drawn, False: drawn.model_copy(update={"weights_sha256": None})}
    with replacing(out) as folder:
        (folder / "base" if settings.compare else folder).mkdir(parents=True)
        for picture, image in zip(drawn.pictures, images, strict=True):
            text = PngInfo()
            text.add_text("prompt", picture.prompt)
            text.add_text("seed", str(picture.seed))
            text.add_text("drtune", about[picture.tuned].model_dump_json(exclude={"pictures", "kind"}))
            image.save(folder / picture.file, pnginfo=text)
        if settings.compare:
            half = len(images) // 2
            pairs = list(chain.from_iterable(zip(images[:half], images[half:], strict=True)))
            told = [f"{side}: {one.prompt}" for one in drawn.pictures[:half] for side in ("before", "after")]
            contact_sheet(pairs, GRID_COLUMNS, captions=told).save(folder / GRID)
        elif settings.grid:
            told = [one.prompt for one in drawn.pictures]
            contact_sheet(images, GRID_COLUMNS, captions=told).save(folder / GRID)
        drawn.save(folder)


def _slug(prompt: str) -> str:
    """The beginning of a prompt as a part of a file's name.

    >>> _slug("A red circle, on the left!")
    'a-red-circle-on-the-left'
    """
    words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))
    return words[:40].rstrip("-") or "prompt"

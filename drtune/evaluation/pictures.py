"""Pictures from anywhere: which belongs to which prompt, what is wrong with the others, and their scores."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drtune.errors import UserError
from drtune.files.local import is_text, read_given
from drtune.prompts.prepare import parse_pictures
from drtune.rewards import Reward, score_finished

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Item = TypeVar("Item")

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files with these endings are pictures."""
PIXELS_AT_ONCE = 4096**2
"""Of the pictures that are scored together. Rewards take up to 90 bytes for each: 1.5 GB."""


@dataclass(frozen=True)
class Entry:
    """A picture by its path in a folder, what it was asked for with, and why it cannot be used, if so."""

    image: str
    prompt: str = ""
    category: str = ""
    problem: str = ""


def matched(images: Path, prompts: Path) -> list[Entry]:
    """An entry for each prompt of the file, with its picture; then one for each picture that no prompt names.

    Where a field `image` or `file` names the picture of each prompt, it counts; else the pictures in the order of their
    names, in which numbers count as numbers, belong to the prompts in theirs.

    Raises:
        UserError: the folder or the file cannot be read, or without names their numbers differ.
    """
    if not images.is_dir():
        raise UserError(f"images {images}: is no folder; give the folder that holds the pictures")
    try:
        records = parse_pictures(read_given(prompts), str(prompts))
    except OSError as error:
        raise UserError(f"prompts {prompts}: cannot be read ({error.strerror}); give the path of a file") from None
    present = sorted(
        (path.relative_to(images).as_posix() for path in images.rglob("*") if path.suffix.lower() in PICTURES),
        key=_natural,
    )
    if unreadable := [name for name in present if not is_text(name)]:
        raise UserError(f"images {images}: the name {unreadable[0]!a} is not UTF-8; rename the file")
    if not any(record.image for record in records):
        if len(records) != len(present):
            raise UserError(
                f"images {images}: {len(present)} pictures for {len(records)} prompts in {prompts}, so that their "
                "order does not tell which belong together; add a column image with the pictures' names"
            )
        return [
            Entry(image, record.text, record.category, record.refused and f"prompt: {record.refused}")
            for image, record in zip(present, records, strict=True)
        ]
    entries = []
    for record in records:
        image = record.image and posixpath.normpath(record.image)
        if not is_text(image):
            image, problem = ascii(image), "name is not UTF-8"
        elif not image:
            problem = f"no image named in {record.where}"
        elif record.refused:
            problem = f"prompt: {record.refused}"
        else:
            problem = _where(images, image)
        entries.append(Entry(image, record.text, record.category, problem))
    named = {entry.image for entry in entries}
    return entries + [Entry(image, problem="surplus") for image in present if image not in named]


def batches(
    opened: Iterable[tuple[Item, Image.Image | None]], batch_size: int
) -> Iterator[tuple[list[Item], list[Image.Image]]]:
    """Items in their order with their pictures, or with none for items without.

    A batch holds pictures of one size: `batch_size` of them at most, and PIXELS_AT_ONCE, if that is not less than one.
    """
    for size, group in groupby(opened, key=lambda pair: None if pair[1] is None else pair[1].size):
        count = batch_size if size is None else max(1, min(batch_size, PIXELS_AT_ONCE // math.prod(size)))
        while batch := list(islice(group, count)):
            yield [item for item, _ in batch], [picture for _, picture in batch if picture is not None]


def reward_columns(
    rewards: Sequence[Reward],
    pictures: Sequence[Image.Image],
    images_BCHW: Tensor,
    prompts: Sequence[str],
    names: Sequence[str],
) -> dict[str, list[float]]:
    """Scores of a batch of finished pictures by reward, as `score_finished`; `names` are the pictures'.

    Raises:
        UserError: a score is not finite; the picture is named.
    """
    columns = {}
    for reward in rewards:
        scores_B = score_finished(reward, pictures, images_BCHW, prompts)
        if (unusable_B := ~scores_B.isfinite()).any():
            picture = names[int(unusable_B.int().argmax())]
            raise UserError(f"reward {reward.name}: not finite for {picture}; look at that picture, or at the reward")
        columns[reward.name] = scores_B.double().tolist()
    return columns


def _where(folder: Path, image: str) -> str:
    """What is wrong with the place of a picture, if anything: a manifest of somebody else's may name any file."""
    if not Path(os.path.realpath(folder / image)).is_relative_to(os.path.realpath(folder)):
        return "outside of the folder"
    try:
        return "" if (folder / image).is_file() else "missing"
    except OSError:  # a name that is too long
        return "missing"


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts numbers in names as numbers: 2.png before 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)], name

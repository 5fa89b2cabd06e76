"""Pictures from anywhere: which belongs to which prompt, what is wrong with the others, and their scores."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drtune.errors import UserError
from drtune.files.local import is_text, read_given
from drtune.prompts.prepare import PicturePrompt, parse_pictures
from drtune.prompts.records import IMAGE_FIELDS
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


def matched(images: Path, prompts: Path, *, by_order: bool = False) -> list[Entry]:
    """An entry for each prompt of the file, with its picture; then one for each picture that no prompt names.

    A picture is named by its path in the folder, whichever field says it.

    Args:
        images: the folder.
        prompts: a file as for `drtune prompts`.
        by_order: no field names the pictures: in the order of their names, in which numbers count as numbers, they
            belong to the prompts in theirs.

    Raises:
        UserError: the folder or the file cannot be read, no field names pictures that are there, or `by_order` is asked
            for where one does, or where there are not as many pictures as prompts.
    """
    if not images.is_dir():
        raise UserError(f"images {images}: is no folder; give the folder that holds the pictures")
    try:
        records = parse_pictures(read_given(prompts), str(prompts))
    except OSError as error:
        raise UserError(f"prompts {prompts}: cannot be read ({error.strerror}); give the path of a file") from None
    files = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    present = sorted((name for name in files if name.lower().endswith(PICTURES)), key=_natural)
    if unreadable := [name for name in present if not is_text(name)]:
        raise UserError(f"images {images}: the name {unreadable[0]!a} is not UTF-8; rename the file")
    folder = images.resolve().name
    field = _naming_field(folder, files, records)
    if field is None:
        return _in_order(images, prompts, present, records, asked=by_order)
    if by_order:
        raise UserError(f"prompts {prompts}: {field} names the pictures, so that their order does not count")
    entries = []
    for record in records:
        image = _path(folder, files, record.fields.get(field, ""))
        if not is_text(image):
            image, problem = ascii(image), "name is not UTF-8"
        elif not image:
            problem = f"no image named in {record.where}"
        elif record.refused:
            problem = f"prompt: {record.refused}"
        else:
            problem = _where(images, files, image)
        entries.append(Entry(image, record.text, record.category, problem))
    named = {entry.image for entry in entries}
    return entries + [Entry(image, problem="surplus") for image in present if image not in named]


def _naming_field(folder: str, files: set[str], records: Sequence[PicturePrompt]) -> str | None:
    """The field that names the most files that are there, one of IMAGE_FIELDS first; None if none does."""
    counts = Counter(
        field for record in records for field, value in record.fields.items() if _path(folder, files, value) in files
    )
    return max(counts, key=lambda field: (field in IMAGE_FIELDS, counts[field]), default=None)


def _path(folder: str, files: set[str], name: str) -> str:
    """The path in the folder that a table means: written as on Windows, too, or from outside of the folder."""
    path = name and posixpath.normpath(name.replace("\\", "/"))
    parts = path.split("/")
    inside = ("/".join(parts[i + 1 :]) for i, part in enumerate(parts) if part == folder)
    return path if path in files else next((rest for rest in inside if rest in files), path)


def _in_order(
    images: Path, prompts: Path, present: Sequence[str], records: Sequence[PicturePrompt], *, asked: bool
) -> list[Entry]:
    """Pictures and prompts, each in their order."""
    names = [(field, record.fields[field]) for record in records for field in IMAGE_FIELDS if record.fields.get(field)]
    if names:
        field, name = names[0]
        raise UserError(
            f"prompts {prompts}: nothing that its {field} names (first {name[:80]!r}) is a file in {images}; "
            "name pictures by their paths in that folder"
        )
    if not asked:
        raise UserError(
            f"prompts {prompts}: no field names pictures of {images}; add a column image with their names (without "
            "one, `drtune score --by-order` takes both in their order)"
        )
    if len(records) != len(present):
        raise UserError(
            f"images {images}: {len(present)} pictures for {len(records)} prompts in {prompts}, so that their "
            "order does not tell which belong together; add a column image with the pictures' names"
        )
    return [
        Entry(image, record.text, record.category, record.refused and f"prompt: {record.refused}")
        for image, record in zip(present, records, strict=True)
    ]


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


def _where(folder: Path, files: set[str], image: str) -> str:
    """What is wrong with the place of a picture, if anything: a manifest of somebody else's may name any file."""
    if not Path(os.path.realpath(folder / image)).is_relative_to(os.path.realpath(folder)):
        return "outside of the folder"
    return "" if image in files else "missing"


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts numbers in names as numbers: 2.png before 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)], name

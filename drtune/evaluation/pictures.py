"""Pictures from anywhere: which belongs to which prompt, what is wrong with the others, and their pixels."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drtune.errors import UserError
from drtune.files.images import MOST_PIXELS, TooLargeError, open_image
from drtune.files.local import is_text, read_given
from drtune.prompts.prepare import parse_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from drtune.rewards import Reward

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


class UnusablePictureError(Exception):
    """A file is no picture that can be scored; the message is the reason."""


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


def open_picture(path: Path) -> Tensor:
    """The picture (3, H, W) in RGB and [0, 1].

    Raises:
        UnusablePictureError: it cannot be opened, is too large, or has more than 8 bits a channel, which converting
            would clip.
    """
    import numpy as np
    import torch

    try:
        with open_image(path) as file:
            if file.mode.startswith(("I", "F")):
                raise UnusablePictureError("not 8 bits a channel")
            levels = np.array(file.convert("RGB"))
    except TooLargeError:
        raise UnusablePictureError(f"more than {MOST_PIXELS // 10**6} megapixels") from None
    except (OSError, SyntaxError, ValueError):  # all that Pillow has for a bad file
        raise UnusablePictureError("corrupt") from None
    return torch.from_numpy(levels).permute(2, 0, 1) / 255


def batches(
    opened: Iterable[tuple[Item, Tensor | None]], batch_size: int
) -> Iterator[tuple[list[Item], Tensor | None]]:
    """Items in their order with their images (B, 3, H, W), or None for items without a picture.

    A batch holds pictures of one size: `batch_size` of them at most, and PIXELS_AT_ONCE, if that is not less than one.
    """
    import torch

    for shape, group in groupby(opened, key=lambda pair: None if pair[1] is None else pair[1].shape):
        size = batch_size if shape is None else max(1, min(batch_size, PIXELS_AT_ONCE // shape[1:].numel()))
        while batch := list(islice(group, size)):
            items, pictures = zip(*batch, strict=True)
            images_BCHW = None if shape is None else torch.stack(pictures)
            del batch, pictures  # which would stay in memory while the batch is scored
            yield list(items), images_BCHW


def reward_columns(
    rewards: Sequence[Reward], images_BCHW: Tensor, prompts: Sequence[str], pictures: Sequence[str]
) -> dict[str, list[float]]:
    """Scores of a batch by reward; `pictures` are its names.

    Raises:
        UserError: a score is not finite; the picture is named.
    """
    columns = {}
    for reward in rewards:
        scores_B = reward(images_BCHW, prompts)
        if (unusable_B := ~scores_B.isfinite()).any():
            picture = pictures[int(unusable_B.int().argmax())]
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

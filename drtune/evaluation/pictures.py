"""Pictures from anywhere: which belongs to which prompt, what is wrong with the others, and their pixels."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drtune.errors import UserError
from drtune.prompts.prepare import parse_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from drtune.rewards import Reward

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files with these endings are pictures."""


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
        records = parse_pictures(prompts.read_bytes(), str(prompts))
    except OSError as error:
        raise UserError(f"prompts {prompts}: cannot be read ({error.strerror}); give the path of a file") from None
    present = sorted(
        (path.relative_to(images).as_posix() for path in images.rglob("*") if path.suffix.lower() in PICTURES),
        key=_natural,
    )
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
        if not image:
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
        UnusablePictureError: it cannot be opened, or has more than 8 bits a channel, which converting would clip.
    """
    import numpy as np
    import torch
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise UnusablePictureError("not 8 bits a channel")
            levels = np.array(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # all that Pillow has for a bad file
        raise UnusablePictureError("corrupt") from None
    return torch.from_numpy(levels).permute(2, 0, 1) / 255


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
    if not (folder / image).resolve().is_relative_to(folder.resolve()):
        return "outside of the folder"
    return "" if (folder / image).is_file() else "missing"


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts numbers in names as numbers: 2.png before 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)], name

"""Pictures and their measures, batch by batch: each batch is whole on the disk or absent, so that a run can go on.

key                                 of which evaluation it all is
images/<contestant>/0007-0.png      the pictures
measured/<contestant>/00003.parquet the batch's rows, written when its pictures are there
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from PIL import Image
from torch import Tensor

from drtune.contracts import DRIFT_PIXELS
from drtune.errors import UserError
from drtune.evaluation.contestants import AnyContestant
from drtune.evaluation.measures import pixel_drift
from drtune.evaluation.pictures import batches
from drtune.files.images import UnusablePictureError, open_picture, to_tensor
from drtune.files.local import replacing, write_text
from drtune.models.loading import DEVICE
from drtune.prompts.shots import Shot

IMAGES = "images"
MEASURED = "measured"
CAPABILITY = "capability"
"""Folder in which the pictures of compositional prompts stand likewise."""
KEY = "key"
PLACE = ["contestant", "index", "prompt", "category", "picture", "image", "problem"]
"""Columns that say which picture a row is of, and why it has no measures, if so."""


class Reader(Protocol):
    """What looks at pictures, and gives a row of numbers for each."""

    def read(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str], names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """For each picture what is read of it; `images_BCHW` are the pictures in RGB and [0, 1]."""


def partial_folder(out: Path, key: str) -> Path:
    """The folder of an evaluation under way, beside its report: what it holds is kept if it has the same key.

    Raises:
        UserError: something else stands there.
    """
    folder = out.with_name(f"{out.name}.partial")
    known = (folder / KEY).read_text(encoding="utf-8", errors="replace") if (folder / KEY).is_file() else ""
    if folder.exists() and any(folder.iterdir()) and not re.fullmatch("[0-9a-f]{64}", known):
        raise UserError(
            f"{folder}: stands where the evaluation works, and is not its own; move it, or give another --out"
        )
    folder.mkdir(exist_ok=True)
    if known != key:
        # The key goes last, so that what a kill leaves is still known to be ours.
        for part in (IMAGES, MEASURED, CAPABILITY):
            shutil.rmtree(folder / part, ignore_errors=True)
    write_text(folder / KEY, key)
    return folder


@dataclass(frozen=True)
class Batch:
    """Some pictures of a contestant, which are made and measured together."""

    contestant: AnyContestant
    number: int
    shots: Sequence[Shot]
    reader: Reader
    folder: Path

    @property
    def path(self) -> Path:
        """Of its rows."""
        return self.folder / MEASURED / self.contestant.name / f"{self.number:05d}.parquet"

    @property
    def is_made(self) -> bool:
        """Whether the folder holds it, whoever made it."""
        return self.path.exists()

    def make(self) -> None:
        """Make and measure the pictures.

        Those of the base come first: pictures that were drawn from the same noise are held against its own.
        """
        folder = self.folder / IMAGES / self.contestant.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = self._measured(self.contestant.write_pictures(self.shots, folder))
        with replacing(self.path) as written:
            pd.DataFrame(rows, columns=None if rows else PLACE).to_parquet(written, index=False)

    def _measured(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each picture that there is, of those of the shots: its place, and its measures or its problem."""
        contestant, images = self.contestant, self.folder / IMAGES
        rows: list[dict[str, Any]] = []
        for shot, name in zip(self.shots, names, strict=True):
            if name:
                place = (contestant.name, shot.index, shot.prompt.text, shot.prompt.category, shot.picture, name, "")
                rows.append(dict(zip(PLACE, place, strict=True)))
        opened = (_opened(row, images / contestant.name) for row in rows)
        for same_size, pictures in batches(opened, len(rows)):
            if not pictures:
                continue
            images_BCHW = to_tensor(pictures).to(DEVICE)
            told = [f"{contestant.name}/{row['image']}" for row in same_size]
            readings = self.reader.read(pictures, images_BCHW, [row["prompt"] for row in same_size], told)
            if contestant.draws and contestant.role != "base":
                base_BCHW = to_tensor([open_picture(images / "base" / row["image"]) for row in same_size]).to(DEVICE)
                for reading, drift in zip(readings, pixel_drift(images_BCHW, base_BCHW), strict=True):
                    reading[DRIFT_PIXELS] = drift
            for row, reading in zip(same_size, readings, strict=True):
                row |= reading
        return rows


def batches_of(
    contestant: AnyContestant, shots: Sequence[Shot], reader: Reader, folder: Path, batch_size: int
) -> list[Batch]:
    """All pictures of a contestant."""
    starts = range(0, len(shots), batch_size)
    return [
        Batch(contestant, number, shots[start : start + batch_size], reader, folder)
        for number, start in enumerate(starts)
    ]


def left(batches: Sequence[Batch], share: int = 0, count: int = 1) -> Iterator[Batch]:
    """Those that are not made yet when their turn comes, of one of `count` shares.

    A share has the same pictures of all who draw, the base's among them; who does not draw is in the first.
    """
    for batch in batches:
        of = batch.number % count if batch.contestant.draws else 0
        if of == share and not batch.is_made:
            yield batch


def gathered(contestant: AnyContestant, folder: Path) -> pd.DataFrame:
    """All rows of a contestant, in the order of the shots; those with a `problem` have no measures."""
    paths = sorted((folder / MEASURED / contestant.name).glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _opened(row: dict[str, Any], folder: Path) -> tuple[dict[str, Any], Image.Image | None]:
    """The row with its picture, or without one, but with its problem."""
    try:
        return row, open_picture(folder / row["image"])
    except UnusablePictureError as unusable:
        row["problem"] = str(unusable)
        return row, None

"""Pictures and their measures, batch by batch: each batch is whole on the disk or absent, so that a run can go on.

images/<contestant>/0007-0.png      the pictures
measured/<contestant>/00003.parquet the batch's rows, written when its pictures are there
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from drtune.evaluation.contestants import DEVICE, Entrant
from drtune.evaluation.measures import Gauges
from drtune.evaluation.pictures import UnusablePictureError, open_picture
from drtune.evaluation.shots import Shot
from drtune.files.local import replacing
from drtune.files.progress import Progress

IMAGES = "images"
MEASURED = "measured"
PLACE = ["contestant", "index", "prompt", "category", "picture", "image", "problem"]
"""Columns that say which picture a row is of, and why it has no measures, if so."""


def gather(
    entrant: Entrant, shots: Sequence[Shot], gauges: Gauges, folder: Path, *, batch_size: int, progress: Progress
) -> None:
    """Make and measure the pictures of a contestant, but for those batches that `folder` holds already.

    The base comes first: pictures that were drawn from the same noise are held against its own.
    """
    (folder / IMAGES / entrant.name).mkdir(parents=True, exist_ok=True)
    batches = {
        folder / MEASURED / entrant.name / f"{start // batch_size:05d}.parquet": shots[start : start + batch_size]
        for start in range(0, len(shots), batch_size)
    }
    todo = {path: batch for path, batch in batches.items() if not path.exists()}
    progress.skip(len(shots) - sum(map(len, todo.values())))
    if not todo:
        return
    with entrant.open() as make:
        for path, batch in todo.items():
            images = make(batch, folder / IMAGES / entrant.name)
            rows = _measured(entrant, batch, images, gauges, folder / IMAGES)
            with replacing(path) as written:
                pd.DataFrame(rows, columns=None if rows else PLACE).to_parquet(written, index=False)
            progress.update(len(batch), contestant=entrant.name)


def gathered(entrant: Entrant, folder: Path) -> pd.DataFrame:
    """All rows of a contestant, in the order of the shots; those with a `problem` have no measures."""
    paths = sorted((folder / MEASURED / entrant.name).glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _measured(
    entrant: Entrant, batch: Sequence[Shot], images: Sequence[str], gauges: Gauges, folder: Path
) -> list[dict[str, Any]]:
    """A row for each picture that there is: its place, and its measures or its problem."""
    rows = []
    opened: list[tuple[dict[str, Any], Tensor]] = []
    for shot, image in zip(batch, images, strict=True):
        if not image:
            continue
        place = (entrant.name, shot.index, shot.prompt.text, shot.prompt.category, shot.picture, image, "")
        rows.append(dict(zip(PLACE, place, strict=True)))
        try:
            opened.append((rows[-1], open_picture(folder / entrant.name / image)))
        except UnusablePictureError as unusable:
            rows[-1]["problem"] = str(unusable)
    for _, group in groupby(opened, key=lambda pair: pair[1].shape):
        same_size, pictures = zip(*group, strict=True)
        images_BCHW = torch.stack(pictures).to(DEVICE)
        names = [f"{entrant.name}/{row['image']}" for row in same_size]
        readings = gauges.read(images_BCHW, [row["prompt"] for row in same_size], names)
        if entrant.draws and entrant.role != "base":
            base_BCHW = torch.stack([open_picture(folder / "base" / row["image"]) for row in same_size]).to(DEVICE)
            drifts = gauges.drift(images_BCHW, base_BCHW)
            readings = [reading | drift for reading, drift in zip(readings, drifts, strict=True)]
        for row, reading in zip(same_size, readings, strict=True):
            row |= reading
    return rows

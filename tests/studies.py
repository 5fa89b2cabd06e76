"""Reports to make studies from, and votes on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from drtune.contracts import Study, StudyPair
from tests.reports import report_of, save_report, score

COLOURS = {"candidate": "teal", "base": "orange", "midjourney": "purple"}
"""What the pictures of a contestant are filled with, so that a test sees who drew one."""


def write_report(
    folder: Path,
    prompts: Sequence[str],
    *,
    contestants: Sequence[str] = ("candidate", "base"),
    pictures: int = 1,
    size: int = 48,
) -> Path:
    """Write what a study reads of a report: pictures of one colour a contestant, the table, and a manifest."""
    rows = []
    for contestant in contestants:
        images = folder / "images" / contestant
        images.mkdir(parents=True)
        for index, prompt in enumerate(prompts):
            for picture in range(pictures):
                image = f"{index:04d}-{picture}.png"
                Image.new("RGB", (size, size), COLOURS[contestant]).save(images / image)
                place = {"contestant": contestant, "prompt": prompt, "category": "shapes", "picture": picture}
                rows.append(place | {"image": image, "symmetry": 0.5})
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
    save_report(report_of(score()), folder)
    return folder


def numbered(count: int) -> list[str]:
    return [f"a red circle, number {index}" for index in range(count)]


def votes_of(study: Study, choose: Callable[[StudyPair], str], rater: str = "ann") -> dict[str, Any]:
    """A file with votes as the page saves it, before it is JSON."""
    votes = [{"pair": pair.id, "choice": choose(pair)} for pair in study.pairs]
    return {"kind": "StudyVotes/1", "study": study.id, "rater": rater, "seed": 7, "votes": votes}


def write_votes(path: Path, votes: object) -> Path:
    path.write_text(json.dumps(votes), encoding="utf-8")
    return path


def prefer(contestant: str) -> Callable[[StudyPair], str]:
    return lambda pair: "left" if pair.left == contestant else "right"

"""Write the prompt sets of data/: `python tools/make_prompts.py [FOLDER]`. The same code always writes the same bytes.

miniature.jsonl holds captions of the drawn world, sdxl.jsonl prompts composed from the phrases in sdxl_words.yaml.
Each record is {"text", "category", "split"}; the split is the one that the hash of the prompt in small letters gives,
as it did when the sets were first written (PromptSet.split_version 1).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from drtune.files.local import sha256_bytes, write_text
from drtune.models.miniature.world import random_scene

TOOLS = Path(__file__).parent
MINIATURE_QUOTA = {"train": 1000, "eval": 200}
SDXL_QUOTA = {"train": 500, "eval": 100}
"""Prompts of each of the four styles."""

Row = dict[str, str]


def main(folder: Path) -> None:
    """Write both sets into `folder`."""
    styles = yaml.safe_load((TOOLS / "sdxl_words.yaml").read_text(encoding="utf-8"))
    write_rows(folder / "miniature.jsonl", fill(MINIATURE_QUOTA, captions()))
    write_rows(
        folder / "sdxl.jsonl",
        [row for style, genres in styles.items() for row in fill(SDXL_QUOTA, compose(style, genres))],
    )


def captions() -> Iterator[Row]:
    """Draw captions of the drawn world without end."""
    rng = random.Random(1200)
    while True:
        scene = random_scene(rng)
        yield {"text": scene.caption, "category": "one object" if len(scene.things) == 1 else "two objects"}


def compose(style: str, genres: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Compose prompts of one style without end, its genres in turn."""
    rng = random.Random(style)
    shared = genres["all"]
    while True:
        for genre in (genres[name] for name in genres if name != "all"):
            slots = shared | genre
            template = rng.choice(slots.pop("templates"))
            words = {slot: rng.choice(phrases.split("; ")) for slot, phrases in slots.items()}
            yield {"text": template.format_map(words), "category": style}


def fill(quota: dict[str, int], rows: Iterable[Row]) -> list[Row]:
    """Take the first distinct prompts that fill the quota of each split, in the order in which they come."""
    left = dict(quota)
    taken: dict[str, Row] = {}
    for row in rows:
        split = side_of(row["text"])
        if row["text"] not in taken and left[split]:
            left[split] -= 1
            taken[row["text"]] = row | {"split": split}
        if not any(left.values()):
            break
    return list(taken.values())


def side_of(text: str) -> str:
    """The side on which a prompt stays: one in six is held out."""
    return "eval" if int(sha256_bytes(text.casefold().encode())[:16], 16) < 2**64 / 6 else "train"


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write one record a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TOOLS.parent / "data")

"""The README's picture, from a run of the pipeline: `python -m tools.hero runs/demo`.

Shown are the largest gains among the pictures that the preference model likes no less than before, and whose object
stands where the caption says: a gain that contradicts its caption is a hacked reward, and no example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pandas as pd
from PIL import Image

from drtune.contracts import SCORES, EvaluationReport
from drtune.files.images import open_picture
from drtune.files.sheets import contact_sheet
from drtune.models.miniature.places import place_of, stands_at

COLUMNS, ROWS, SIDE = 4, 2, 128
PICTURE = Path("docs/before-after.png")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def main(run: Path) -> None:
    """Draw docs/before-after.png from the report in RUN."""
    folder = run / "report"
    report = EvaluationReport.load(folder)
    table = pd.read_parquet(folder / SCORES)
    first: Any = table[table["picture"] == 0].set_index(["contestant", "prompt"])
    gains = first.loc["candidate", ["symmetry", "preference"]] - first.loc["base", ["symmetry", "preference"]]
    likeable = [prompt for prompt in gains[gains["preference"] >= 0].index if _keeps_its_place(folder, first, prompt)]
    chosen = gains.loc[likeable].nlargest(COLUMNS * ROWS, "symmetry").index
    pairs = [
        _pair(*(folder / "images" / who / first.loc[(who, prompt), "image"] for who in ("base", "candidate")))
        for prompt in chosen
    ]
    contact_sheet(pairs, COLUMNS, captions=list(chosen), side=pairs[0].width, gap=24).save(PICTURE, optimize=True)
    better = report.score("preference")
    assert better is not None
    print(f"{PICTURE}: {len(chosen)} of {report.num_prompts} prompts; preference is better on {better.win_rate:.0%}")


def _keeps_its_place(folder: Path, first: Any, prompt: str) -> bool:
    if "left" in prompt or "right" in prompt:  # which symmetry can only contradict, or not be had
        return False
    place = place_of(prompt)
    after = folder / "images" / "candidate" / first.loc[("candidate", prompt), "image"]
    return place is None or stands_at(open_picture(after), place)


def _pair(before: Path, after: Path) -> Image.Image:
    pictures = [open_picture(path).convert("RGB") for path in (before, after)]
    return contact_sheet(pictures, 2, captions=["before", "after"], side=SIDE, gap=2)


if __name__ == "__main__":
    main()

"""The learning curve of a run: what rewards give the same sample prompts, drawn again on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from drtune.contracts.reading import read_lines
from drtune.files.local import write_text

CURVE = "curve.jsonl"


class CurvePoint(BaseModel):
    """A line of `curve.jsonl`.

    >>> CurvePoint(step=20, rewards={"symmetry": 0.61, "preference": 0.38})
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int
    """Updates done; 0 is where the run began: the base, or the adapter that it was given."""
    rewards: dict[str, float]
    """Mean over the sample prompts by reward; one that was not a finite number is not there."""


def read_curve(folder: str | Path) -> list[CurvePoint]:
    """The points in `folder/curve.jsonl`, the first one first; none of a run that has none.

    Raises:
        UserError: a line is none that a run wrote.
    """
    return read_lines(Path(folder) / CURVE, CurvePoint, fix="take the file away")


def write_curve(folder: str | Path, points: Sequence[CurvePoint]) -> None:
    """Write `folder/curve.jsonl`, whole or not at all."""
    write_text(Path(folder) / CURVE, "".join(f"{point.model_dump_json()}\n" for point in points))


def curve_lines(points: Sequence[CurvePoint]) -> dict[str, list[tuple[int, float]]]:
    """The curve of each reward by its name, as points (step, mean); those of one point are none."""
    names = dict.fromkeys(name for point in points for name in point.rewards)
    lines = {name: [(one.step, one.rewards[name]) for one in points if name in one.rewards] for name in names}
    return {name: line for name, line in lines.items() if len(line) > 1}

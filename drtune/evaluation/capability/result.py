"""From the answers about all pictures to what a report says of base and candidate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from drtune.contracts import ANSWERS, Capability, CapabilityScore, LostPrompt
from drtune.evaluation.capability.exam import SURE, Judge
from drtune.evaluation.capability.shares import score_of
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.gathering import CAPABILITY
from drtune.evaluation.highlights import thumbnail
from drtune.files.local import write_text

NUM_SHOWN = 8
"""Prompts that a page shows of those which were lost."""


class Pair(NamedTuple):
    """The two pictures of a prompt: rows of the table."""

    base: dict[str, Any]
    candidate: dict[str, Any]

    @property
    def was_lost(self) -> bool:
        """The base's alone is right."""
        return bool(self.base["right"] and not self.candidate["right"])

    @property
    def was_gained(self) -> bool:
        """The candidate's alone is right."""
        return bool(self.candidate["right"] and not self.base["right"])


def capability_of(table: pd.DataFrame, judge: Judge, folder: Path) -> Capability:
    """What the table of both contestants' pictures says; the answers are written into `folder`."""
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    write_text(folder / ANSWERS, "".join(json.dumps(_told(row)) + "\n" for row in rows))
    drawn = {(row["contestant"], row["index"]): row for row in rows}
    pairs = [Pair(row, drawn[CANDIDATE, index]) for (name, index), row in drawn.items() if name == BASE]
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.base["category"], []).append(pair)
    by_category = [_score(category, groups[category]) for category in sorted(groups) if len(groups) > 1]
    return Capability(
        judge=judge.name,
        provenance=judge.provenance,
        scores=(_score(None, pairs), *by_category),
        lost=tuple(_lost(pair, folder) for pair in [pair for pair in pairs if pair.was_lost][:NUM_SHOWN]),
    )


def _told(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("contestant", "image", "prompt", "category", "right")}
    return kept | {"answers": json.loads(row["answers"])}


def _score(category: str | None, pairs: Sequence[Pair]) -> CapabilityScore:
    return score_of(
        category,
        len(pairs),
        base=sum(pair.base["right"] for pair in pairs) / len(pairs),
        gained=sum(pair.was_gained for pair in pairs),
        lost=sum(pair.was_lost for pair in pairs),
    )


def _lost(pair: Pair, folder: Path) -> LostPrompt:
    answers: dict[str, float] = json.loads(pair.candidate["answers"])
    return LostPrompt(
        prompt=pair.candidate["prompt"],
        category=pair.candidate["category"],
        missing=tuple(asked for asked, answer in answers.items() if answer <= SURE),
        thumbnails={
            row["contestant"]: f"{CAPABILITY}/{thumbnail(folder / CAPABILITY, Path(row['contestant']) / row['image'])}"
            for row in pair
        },
    )

"""What the page keeps of a study: one file of arrays, small enough to be committed, and one of what was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drtune.files.local import replacing, sha256_bytes, write_text
from science.arms import Arm, Cell, Scale
from science.flops import Flops
from science.statistics import Floats

UNIT = 2e-4
"""Of the readings that are kept, in 16 bits: what is rounded off is far below what prompts differ by."""


@dataclass(frozen=True)
class Record:
    """One training: its examinations, the first of which is the base's."""

    checks_C: NDArray[np.int64]
    """After how many updates; fewer than the scale's where the training diverged."""
    choosing_CM: Floats
    """Means of MEASURES over the prompts that choose."""
    reporting_CPM: Floats
    """MEASURES of the prompts that report."""
    seconds: float
    """Of one core, for all updates."""


@dataclass(frozen=True)
class Study:
    """All that was found."""

    scale: Scale
    records: dict[Cell, Record]
    flops: dict[Arm, float]
    """Of an update."""

    @property
    def arms(self) -> list[Arm]:
        """All that were trained."""
        return list(self.flops)

    def save(self, folder: Path) -> None:
        """Write `folder/study.json` and `folder/records.npz`."""
        listed = {
            "scale": asdict(self.scale),
            "arms": [[arm.objective, arm.way, arm.steps, flops] for arm, flops in self.flops.items()],
            "cells": [[self.arms.index(cell.arm), cell.learning_rate, cell.seed] for cell in self.records],
        }
        arrays: dict[str, NDArray[np.generic]] = {}
        for cell, record in self.records.items():
            arrays[f"{cell.name}/checks"] = record.checks_C
            arrays[f"{cell.name}/choosing"] = record.choosing_CM.astype(np.float32)
            arrays[f"{cell.name}/reporting"] = np.round(record.reporting_CPM / UNIT).astype(np.int16)
            arrays[f"{cell.name}/seconds"] = np.array(record.seconds, dtype=np.float32)
        write_text(folder / "study.json", json.dumps(listed))
        with replacing(folder / "records.npz") as written, written.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any reading."""
        readings = (np.round(record.reporting_CPM / UNIT).astype(np.int16) for record in self.records.values())
        return sha256_bytes(b"".join(reporting.tobytes() for reporting in readings))[:12]

    @classmethod
    def load(cls, folder: Path) -> Study:
        """What `save` wrote."""
        listed = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        scale: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in listed["scale"].items()
        }
        arms = [Arm(objective, way, steps) for objective, way, steps, _ in listed["arms"]]
        cells = [Cell(arms[place], rate, seed) for place, rate, seed in listed["cells"]]
        with np.load(folder / "records.npz", allow_pickle=False) as arrays:
            records = {
                cell: Record(
                    arrays[f"{cell.name}/checks"],
                    arrays[f"{cell.name}/choosing"].astype(float),
                    arrays[f"{cell.name}/reporting"] * UNIT,
                    float(arrays[f"{cell.name}/seconds"]),
                )
                for cell in cells
            }
        return cls(Scale(**scale), records, {arm: one[-1] for arm, one in zip(arms, listed["arms"], strict=True)})


def collect(cells: Sequence[Cell], scale: Scale, folder: Path, earlier: Study) -> Study:
    """The study whose trainings and counts of operations are in an earlier one, or else all in a folder of runs."""
    arms = dict.fromkeys(cell.arm for cell in cells)
    flops = {
        arm: earlier.flops[arm] if arm in earlier.flops else float(Flops.of(arm).found(folder / "costs")["flops"])
        for arm in arms
    }
    records = {
        cell: earlier.records[cell] if cell in earlier.records else _read(cell, scale, folder / "cells")
        for cell in cells
    }
    return Study(scale, records, flops)


def _read(cell: Cell, scale: Scale, folder: Path) -> Record:
    found = json.loads((folder / f"{cell.name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{cell.name}.npz") as arrays:
        readings_CPM = arrays["readings"].astype(float)
    return Record(
        np.array(found["checks"]),
        readings_CPM[:, scale.choosing].mean(axis=1),
        np.round(readings_CPM[:, scale.reporting] / UNIT) * UNIT,  # as they will be read again
        found["training_seconds"],
    )

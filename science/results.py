"""The records of a study, and what the page asks of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from science.costs import Gradients, UpdateCosts, costs_of
from science.design import METHODS, REWARDS, STEPS, Cell, Experiment, Scale, cells_of, methods
from science.statistics import Floats, at_level, best_within, highest_mean

AXES = {"updates": "updates", "seconds": "seconds of training", "drift": "drift from the base"}
"""What reward is held against."""
DRIFT = 0.1
"""The budget of drift of the tables: the pictures are still much as the base draws them."""
ENDED, IN_TIME, NEAR, DEPLOYED = WAYS = (
    "after all updates",
    "in equal time",
    f"within a drift of {DRIFT}",
    "with the guidance of deployment",
)
"""How a gain is counted, always at the learning rate that gains most so over the seeds."""
KEPT = (*REWARDS.values(), "drift", "diversity_within", "diversity_across")
"""Measures that go into the records of the page, to five decimals."""
Records = dict[str, dict[str, Any]]
"""What trainings and measurements found, by their names."""


def collect(scale: Scale, out: Path) -> Records:
    """All records of a study, with what the page needs of them."""
    made: Records = {}
    for cell in cells_of(scale):
        record = json.loads((out / "cells" / f"{cell.name}.json").read_text(encoding="utf-8"))
        checks = [
            check | {"measures": {name: round(check["measures"][name], 5) for name in KEPT}}
            for check in record["checks"]
        ]
        made[cell.name] = {"checks": checks} | {name: record[name] for name in ("diverged",) if name in record}
    for cost in costs_of(scale):
        made[cost.name] = cost.found(out / "costs")
    return made


class Results:
    """What the page asks of the records of a study."""

    def __init__(self, scale: Scale, records: Records) -> None:
        self.scale, self.records = scale, records

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Mean seconds of an update of each method."""
        return {label: float(np.mean(cost["seconds"])) for label, cost in self.costs(STEPS).items()}

    def costs(self, steps: int) -> dict[str, Any]:
        """Seconds and bytes by way, at one T."""
        return self.records[UpdateCosts(steps, self.scale.repeats).name]

    def gradients(self, reward: str, steps: int) -> dict[str, Any]:
        """Norms and agreement by alpha."""
        return self.records[Gradients(reward, steps, self.scale.batches).name]

    # ------------------------------------------------------------------------------------------------------------------

    def path(self, cell: Cell, *columns: str, deployed: bool = False) -> Floats:
        """The examinations of a training (N, M): each column a measure's change from the base, or an axis.

        They are those with the guidance scale of training; or, of deployment, the base's and the last.
        """
        checks = self.records[cell.name]["checks"]
        guidance = checks[1 if deployed else 0]["guidance"]
        own = [check for check in checks if check["guidance"] == guidance]
        return np.array([[self._column(cell, column, check, own[0]) for column in columns] for check in own])

    def _column(self, cell: Cell, column: str, check: dict[str, Any], base: dict[str, Any]) -> float:
        match column:
            case "updates":
                return float(check["update"])
            case "seconds":
                (label,) = [label for label, settings in METHODS.items() if settings == cell.settings]
                return self.seconds[label] * float(check["update"])
            case "reward":
                column = REWARDS[cell.reward]
        return float(check["measures"][column] - base["measures"][column])

    def trainings(self, experiment: Experiment, label: str, seed: int, reward: str) -> list[Cell]:
        """Those of one label, at all learning rates."""
        return [cell for name, cell in experiment(self.scale, seed) if name == label and cell.reward == reward]

    def labels(self, reward: str) -> list[str]:
        """Methods that were trained on a reward."""
        return [label for label in METHODS if self.trainings(methods, label, 0, reward)]

    def _by_rate(self, experiment: Experiment, label: str, reward: str) -> Iterator[tuple[Cell, ...]]:
        """The trainings of one label, for each learning rate those of all seeds."""
        seeds = range(self.scale.seeds)
        return zip(*(self.trainings(experiment, label, seed, reward) for seed in seeds), strict=True)

    def best(self, experiment: Experiment, label: str, reward: str, axis: str, budgets: Sequence[float]) -> Floats:
        """The best gain (seeds, B) within budgets of an axis, each at the learning rate that is best over the seeds."""
        rates = self._by_rate(experiment, label, reward)
        gains = [[best_within(self.path(cell, axis, "reward"), budgets) for cell in cells] for cells in rates]
        return highest_mean(np.array(gains))

    def ended(self, experiment: Experiment, label: str, reward: str, *, deployed: bool = False) -> Floats:
        """Gain and drift (seeds, 2) after all updates, at the learning rate that gains most over the seeds."""
        rates = self._by_rate(experiment, label, reward)
        ends = np.array(
            [[self.path(cell, "reward", "drift", deployed=deployed)[-1] for cell in cells] for cells in rates]
        )
        best: Floats = ends[ends[..., 0].mean(axis=1).argmax()]
        return best

    def gains(self, experiment: Experiment, label: str, reward: str, way: str) -> Floats:
        """The gain (seeds,) counted in one of `WAYS`; equal time is what the cheapest method takes for all updates."""
        if way == IN_TIME:
            budget = min(self.seconds[method] for method in METHODS) * self.scale.updates
            return self.best(experiment, label, reward, "seconds", [budget])[:, 0]
        if way == NEAR:
            return self.best(experiment, label, reward, "drift", [DRIFT])[:, 0]
        return self.ended(experiment, label, reward, deployed=way == DEPLOYED)[:, 0]

    def at_reward(self, label: str, reward: str, level: float, columns: Iterable[str]) -> Floats:
        """Drift and other changes (seeds, 1 + M) of a method when its gain first reached a level.

        They are those at the learning rate that drifted least until then. Every seed must have reached it.
        """
        rows = []
        for seed in range(self.scale.seeds):
            cells = self.trainings(methods, label, seed, reward)
            points = [at_level(self.path(cell, "reward", "drift", *columns), level) for cell in cells]
            reached = [point for point in points if point is not None]
            rows.append(min(reached, key=lambda point: float(point[1]))[1:])
        return np.array(rows)

"""What a run has written of its updates: `metrics.jsonl`, which is read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from drtune.config import Config
from drtune.contracts import CurvePoint, curve_lines
from drtune.contracts.reading import read_lines
from drtune.files.charts import charts

METRICS = "metrics.jsonl"
WINDOW = 10
"""Updates over which a reward is averaged."""
RECENT = 20
"""Updates whose pace tells the time left."""


@dataclass(frozen=True)
class UpdateMetrics:
    """One optimizer update."""

    step: int
    """Updates done, this one included."""
    reward: float
    """Mean over the batch of the weighted sum that is maximised."""
    rewards: dict[str, float]
    """Mean of each part, before it is bent and weighted."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    stop: int
    """The last sampler step that ran, from 0."""
    trained: tuple[int, ...]
    """The sampler steps that carried gradient."""
    seconds: float
    """Of the update alone, without samples and checkpoint."""
    at: float
    """Seconds since 1970, when it was made."""
    memory: int | None = None
    """Most bytes so far: of the GPU's memory that tensors took, or without a GPU of the process."""
    held_out: float | None = None
    """Mean of the held-out reward after this update, if it was checked then."""
    resumed: bool = False
    """It is the first since the run was started again: for a while before it there was none."""

    def scalars(self) -> dict[str, float]:
        """What is plotted, by name."""
        scalars = {f"train/{name}": getattr(self, name) for name in ("reward", "grad_norm", "learning_rate", "seconds")}
        return scalars | {f"reward/{name}": value for name, value in self.rewards.items()}


def pace_of(updates: Sequence[UpdateMetrics]) -> float:
    """Seconds from one update to the next of late, with the samples and checkpoints between them."""
    recent = pairwise(updates[-RECENT - 1 :])
    gaps = [update.at - before.at for before, update in recent if not update.resumed]
    return fmean(gaps) if gaps else updates[-1].seconds


def read_metrics(folder: Path) -> list[UpdateMetrics]:
    """The updates in `folder/metrics.jsonl`, the first one first; a line that is just being written is left out.

    Raises:
        UserError: a line is none that a run wrote.
    """
    return read_lines(folder / METRICS, UpdateMetrics, fix="start again with --overwrite")


def begun_from(config: Config) -> str:
    """What a run had before its first update, in words."""
    return "the adapter it began from" if config.start else "the base"


def mean_reward(updates: Sequence[UpdateMetrics]) -> float:
    """Mean reward over the last ten updates."""
    return fmean(update.reward for update in updates[-WINDOW:])


def tuning_charts(updates: Sequence[UpdateMetrics], points: Sequence[CurvePoint]) -> str:
    """SVG: the reward of each update as a dot, their running mean as a line, and what the rewards give the samples."""
    name = "reward while tuning"
    means = [
        (update.step, mean_reward(updates[max(0, end - WINDOW) : end])) for end, update in enumerate(updates, start=1)
    ]
    dots = [(update.step, update.reward) for update in updates]
    return charts({name: means} | curve_lines(points), dots={name: dots})

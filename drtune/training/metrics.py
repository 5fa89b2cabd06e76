"""What a run says while it goes on: metrics.jsonl, trackers, and a line with the time left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from PIL import Image

from drtune.config import Config
from drtune.contracts import CurvePoint, read_curve, write_curve
from drtune.contracts.reading import whole_lines
from drtune.files.local import replacing
from drtune.files.progress import Progress
from drtune.files.sheets import contact_sheet
from drtune.training.history import METRICS, UpdateMetrics, begun_from, mean_reward, read_metrics
from drtune.training.trackers import Trackers

COLUMNS = 8
"""Of a sheet of samples."""


class MetricLog:
    """Writes each update; on resume, forgets what was logged after the checkpoint."""

    def __init__(self, folder: Path, start: int, config: Config, progress: Progress) -> None:
        path = folder / METRICS
        with replacing(path) as written:
            written.write_bytes(b"".join(whole_lines(path)[:start]))
        self.updates = read_metrics(folder)
        """All of the run, those before a resume included."""
        self.folder = folder
        self.points = [point for point in read_curve(folder) if point.step <= start] if start else []
        """The learning curve, likewise."""
        write_curve(folder, self.points)
        self.file = path.open("a", encoding="utf-8")
        self.begun_from = begun_from(config)
        self.trackers = Trackers(folder, start, config)
        self.progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.trackers.finish()

    def write(self, metrics: UpdateMetrics) -> None:
        """Log one update everywhere."""
        self.file.write(json.dumps(asdict(metrics)) + "\n")
        self.file.flush()
        self.trackers.log(metrics.scalars(), metrics.step)
        self.updates.append(metrics)
        self.progress.update(reward=f"{mean_reward(self.updates):.3f}")

    def samples(self, point: CurvePoint, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Show the samples after some updates, and what the rewards give them."""
        after = f"after update {point.step}" if point.step else self.begun_from
        given = ", ".join(f"{name.rpartition(':')[2]} {value:.3g}" for name, value in point.rewards.items())
        sheet = contact_sheet(pictures, COLUMNS, captions=prompts, title=f"{after}: {given}")
        file = self.folder / "samples" / f"step-{point.step:06d}.png"
        with replacing(file) as written:
            sheet.save(written)
        self.points.append(point)
        write_curve(self.folder, self.points)
        self.trackers.log({f"samples/{name}": value for name, value in point.rewards.items()}, point.step)
        self.trackers.show(sheet, file, point.step)

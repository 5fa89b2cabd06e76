"""What a run says while it goes on: metrics.jsonl, TensorBoard, Weights & Biases, and a line with the time left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from drtune.config import Config
from drtune.contracts import CurvePoint, read_curve, write_curve
from drtune.files.local import replacing, write_text
from drtune.files.progress import Progress
from drtune.files.sheets import contact_sheet
from drtune.training.history import METRICS, UpdateMetrics, mean_reward, read_metrics, whole_lines

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
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.wandb = _start_wandb(folder, config) if config.wandb_project else None
        self.progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.board.close()
        if self.wandb:
            self.wandb.finish()

    def write(self, metrics: UpdateMetrics) -> None:
        """Log one update everywhere."""
        self.file.write(json.dumps(asdict(metrics)) + "\n")
        self.file.flush()
        for name, value in metrics.scalars().items():
            self.board.add_scalar(name, value, metrics.step)
        if self.wandb:
            self.wandb.log(metrics.scalars(), step=metrics.step)
        self.updates.append(metrics)
        self.progress.update(reward=f"{mean_reward(self.updates):.3f}")

    def samples(self, point: CurvePoint, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Show the samples after some updates, and what the rewards give them."""
        after = f"after update {point.step}" if point.step else "the base"
        given = ", ".join(f"{name.rpartition(':')[2]} {value:.3g}" for name, value in point.rewards.items())
        sheet = contact_sheet(pictures, COLUMNS, captions=prompts, title=f"{after}: {given}")
        with replacing(self.folder / "samples" / f"step-{point.step:06d}.png") as written:
            sheet.save(written)
        self.points.append(point)
        write_curve(self.folder, self.points)
        scalars = {f"samples/{name}": value for name, value in point.rewards.items()}
        self.board.add_image("samples", np.asarray(sheet), point.step, dataformats="HWC")
        for name, value in scalars.items():
            self.board.add_scalar(name, value, point.step)
        if self.wandb:
            import wandb

            self.wandb.log({"samples": wandb.Image(sheet), **scalars}, step=point.step)


def _start_wandb(folder: Path, config: Config) -> Any:
    """The run's page, the same one again after a resume."""
    import wandb

    id_file = folder / "wandb-id.txt"
    run = wandb.init(
        project=config.wandb_project,
        id=id_file.read_text(encoding="utf-8") if id_file.exists() else None,
        resume="allow",
        dir=folder,
        config=config.model_dump(mode="json"),
    )
    write_text(id_file, run.id)
    return run

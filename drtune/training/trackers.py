"""Where a run is logged beside its own files: TensorBoard, Weights & Biases and MLflow, by trackers of accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from drtune.config import Config
from drtune.files.local import write_text


class Trackers:
    """All that are asked for, started; each service has one run for ours, also after a resume."""

    def __init__(self, folder: Path, start: int, config: Config) -> None:
        self.all: list[GeneralTracker] = [TensorBoardTracker("tensorboard", folder, purge_step=start + 1)]
        self.all[0].start()
        if config.wandb_project:
            file = folder / "wandb-id.txt"
            wandb = WandBTracker(config.wandb_project, id=_kept(file), resume="allow", dir=folder)
            self._begin(wandb, config, file)
            write_text(file, wandb.run.id)
        if config.mlflow_experiment:
            file = folder / "mlflow-id.txt"
            mlflow = MLflowTracker(config.mlflow_experiment, run_id=_kept(file), run_name=folder.name)
            self._begin(mlflow, config, file)
            write_text(file, mlflow.active_run.info.run_id)

    def _begin(self, tracker: GeneralTracker, config: Config, file: Path) -> None:
        tracker.start()
        self.all.append(tracker)
        if not file.exists():  # MLflow lets nothing be changed of what a run was begun with, such as its steps
            tracker.store_init_configuration(config.model_dump(mode="json"))

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Numbers after so many updates, by name."""
        for tracker in self.all:
            tracker.log(dict(scalars), step=step)

    def show(self, sheet: Image.Image, file: Path, step: int) -> None:
        """The samples after so many updates, which stand in `file` too."""
        for tracker in self.all:
            match tracker:
                case TensorBoardTracker():
                    tracker.log_images({"samples": np.asarray(sheet)[None]}, step=step, dataformats="NHWC")
                case WandBTracker():
                    tracker.log_images({"samples": [sheet]}, step=step)
                case MLflowTracker():
                    tracker.log_artifact(str(file), "samples")

    def finish(self) -> None:
        """Close them all."""
        for tracker in self.all:
            tracker.finish()


def _kept(file: Path) -> str | None:
    """The id of the run that was begun there, if one was."""
    return file.read_text(encoding="utf-8") if file.exists() else None

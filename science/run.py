"""The trainings and measurements of a study that have no record yet, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drtune.files.progress import Progress
from drtune.models.loading import quiet_libraries
from drtune.models.miniature.cores import cores
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare
from science.arms import Cell, Scale
from science.cell import is_done, run_cell
from science.costs import Measurement
from science.flops import Flops

CAPTIONS = 8000
"""Those of training, and the held-out ones of which every seed gets its own."""
ON_A_GPU = 12
"""Trainings side by side on one CUDA device, which a small one leaves mostly idle."""


def run_missing(
    trainings: Sequence[Cell], measurements: Sequence[Measurement], scale: Scale, folder: Path, workers: int | None
) -> None:
    """Run what has no record, in a process for each core: a training is too small to gain from more threads.

    A process keeps what it has loaded and the examination of the seed that it is at. On a machine with a CUDA device
    all processes share it.
    """
    prompts, cells, costs = folder / "prompts", folder / "cells", folder / "costs"
    if not prompts.exists():
        _prepare(prompts)
    needed: Sequence[Measurement] = [*measurements, *map(Flops.of, dict.fromkeys(cell.arm for cell in trainings))]
    tasks: list[Callable[[], Any]] = [partial(cost.run, costs) for cost in needed if not cost.is_done(costs)]
    tasks += [partial(run_cell, cell, scale, prompts, cells) for cell in trainings if not is_done(cell, scale, cells)]
    total = len(needed) + len(trainings)
    spawn = multiprocessing.get_context("spawn")
    workers = workers or (ON_A_GPU if torch.cuda.is_available() else cores())
    with ProcessPoolExecutor(workers, spawn, _start_worker) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            with Progress("trainings and measurements", total, "task", done=total - len(tasks)) as progress:
                for done in as_completed(running):
                    done.result()
                    progress.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(prompts: Path) -> None:
    prompts.parent.mkdir(parents=True, exist_ok=True)
    captions = prompts.with_suffix(".txt")
    captions.write_text("".join(f"{scene.caption}\n" for scene in scenes(seed=7, count=CAPTIONS)), encoding="utf-8")
    prepare(captions, prompts)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once and without a word: records are written whole
    torch.set_num_threads(1)
    quiet_libraries()

"""The trainings and measurements of a study that have no record yet, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch

from drtune.files.progress import Progress
from drtune.models.loading import quiet_libraries
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare
from science.cell import is_done, run_cell
from science.costs import costs_of
from science.design import Scale, cells_of

CAPTIONS = 900
"""Those of training, and the held-out ones of which every seed gets its own."""


def run_missing(scale: Scale, folder: Path) -> None:
    """Run what has no record, in a process for each core: a training is too small to gain from more threads."""
    prompts, cells, costs = folder / "prompts", folder / "cells", folder / "costs"
    if not prompts.exists():
        _prepare(prompts)
    trainings = [
        partial(run_cell, cell, scale, prompts, cells) for cell in cells_of(scale) if not is_done(cell, scale, cells)
    ]
    tasks = trainings + [partial(cost.run, costs) for cost in costs_of(scale) if not cost.is_done(costs)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, _start_worker) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            with Progress("trainings and measurements", len(tasks), "task") as progress:
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

"""Run the study: every training and every measurement of cost that has no record yet, then the page.

python -m science [--quick] [--out FOLDER] [--page FILE]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import click
import torch
from tqdm import tqdm

from drtune.bases import quiet_libraries
from drtune.files import write_text
from drtune.miniature.world import scenes
from drtune.prompts import prepare
from science.cell import is_done, run_cell
from science.costs import costs_of
from science.design import FULL, QUICK, Scale, cells_of
from science.page import cut_pictures, write_page
from science.results import Results, collect

CAPTIONS = 900
"""Those of training, and the held-out ones of which every seed gets its own."""


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A small study of the same build, in under 15 minutes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/science"),
    help="Folder of the records; what is there is not run again.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="OUT/science.md",
    help="The page that is written, its plots in a folder beside it.",
)
def main(quick: bool, out: Path, page: Path | None) -> None:
    """Try the paper's claims on the miniature, and write a page of what came out.

    Stopped at any time, the same command goes on from where it was.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # inherited by the workers
    scale, folder = (QUICK, out / "quick") if quick else (FULL, out / "full")
    try:
        run_missing(scale, folder)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {folder}, and the same command goes on from there", err=True)
        raise click.exceptions.Exit(128 + signal.SIGINT) from None
    page = page or folder / "science.md"
    records = collect(scale, folder)
    write_page(scale, records, page, f"make science{' QUICK=1' if quick else ''}")
    cut_pictures(Results(scale, records), folder / "cells", page.with_suffix(""))
    write_text(page.with_suffix("") / "records.json", json.dumps(records, separators=(",", ":")))
    click.echo(f"wrote {page} from {len(cells_of(scale))} trainings in {folder}")


def run_missing(scale: Scale, folder: Path) -> None:
    """Run what has no record, in a process for each core: a training is too small to gain from more threads."""
    prompts, cells, costs = folder / "prompts", folder / "cells", folder / "costs"
    if not prompts.exists():
        _prepare(prompts)
    trainings = [
        partial(run_cell, cell, scale, prompts, cells) for cell in cells_of(scale) if not is_done(cell, scale, cells)
    ]
    measured = [partial(cost.run, costs) for cost in costs_of(scale) if not (costs / f"{cost.name}.json").exists()]
    tasks = trainings + measured
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0)), _start_worker) as pool:
        for _ in tqdm(pool.imap_unordered(_run, tasks), "trainings and measurements", len(tasks), smoothing=0.02):
            pass


def _prepare(prompts: Path) -> None:
    prompts.parent.mkdir(parents=True, exist_ok=True)
    captions = prompts.with_suffix(".txt")
    captions.write_text("".join(f"{scene.caption}\n" for scene in scenes(seed=7, count=CAPTIONS)), encoding="utf-8")
    prepare(captions, prompts)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it and ends its workers
    torch.set_num_threads(1)
    quiet_libraries()


def _run(task: partial[None]) -> None:
    task()


if __name__ == "__main__":
    main()

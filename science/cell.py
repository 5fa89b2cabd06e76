"""One cell: train, examine on the way, and leave one record."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drtune.config import Config, load_config
from drtune.files.images import to_pil
from drtune.files.local import replacing, write_text
from drtune.files.provenance import code_revision
from drtune.files.sheets import contact_sheet
from drtune.methods.plans import Plan
from drtune.prompts.prepare import open_prompts
from drtune.training.optimization import DivergenceError
from drtune.training.processes import Processes
from drtune.training.update import Updates
from science.arms import STEPS, Cell, Scale
from science.exam import MEASURES, Exam

SHOWN = 10
"""Pictures of each examination that are kept: the first of those reported on."""


class WindowTrainer(Updates):
    """A trainer in which always the same steps train, with their inputs detached, in a chain that runs to its end."""

    def __init__(self, window: tuple[int, ...], config: Config, prompts: Path, out: Path) -> None:
        super().__init__(config, open_prompts(prompts), out, Processes())
        self.window = window

    def plan(self, _step: int) -> Plan:
        """What every update does."""
        return Plan(stop=self.config.sampler.steps - 1, trained=self.window, alpha=0.0)


def config_of(cell: Cell, scale: Scale) -> Config:
    """The resolved configuration of a cell: guidance is 1 in examination too, as it is in training."""
    return load_config(
        None,
        [
            f"steps={scale.updates}",
            "processes=1",
            f"evaluation.rewards=[{', '.join(MEASURES[:-1])}]",
            "evaluation.pictures_per_prompt=1",
            "evaluation.sampler.guidance_scale=1",
            f"compute.keep_graphs={STEPS}",  # the same gradient, sooner
            *cell.overrides,
        ],
    )


def run_cell(cell: Cell, scale: Scale, prompts: Path, out: Path) -> None:
    """Train the cell and write `out/NAME.npz`, `out/NAME.png` (a row of pictures an examination) and `out/NAME.json`.

    A training that diverges ends early and says so in its record: that is a result too.
    """
    config = config_of(cell, scale)
    started = time.process_time()
    unused = out / "unused"
    trainer = (
        WindowTrainer(cell.way.window, config, prompts, unused)
        if cell.way.window
        else Updates(config, open_prompts(prompts), unused, Processes())
    )
    exam = _exam(cell.seed, cell.arm.steps, scale, prompts, trainer.processes.device)
    record: dict[str, Any] = {"identity": identity(cell, scale), "code": code_revision(), "checks": [0]}
    readings, rows = [exam.measure(exam.base_pictures)], [exam.base_pictures]
    training = 0.0
    try:
        for step in range(1, scale.updates + 1):
            before = time.process_time()
            trainer.update(step)
            training += time.process_time() - before
            if step in scale.checks:
                pictures = exam.draw(trainer.base)
                rows.append(pictures)
                readings.append(exam.measure(pictures))
                record["checks"].append(step)
    except DivergenceError as error:
        record["diverged"] = str(error)
    record |= {"training_seconds": training, "all_seconds": time.process_time() - started}
    first = slice(scale.reporting.start, scale.reporting.start + SHOWN)
    shown = [one for row in rows for one in to_pil(row[first])]
    with replacing(out / f"{cell.name}.png") as written:
        contact_sheet(shown, len(shown) // len(rows), side=32, gap=0).save(written)
    with replacing(out / f"{cell.name}.npz") as written, written.open("wb") as file:
        np.savez(file, readings=np.stack(readings))
    write_text(out / f"{cell.name}.json", json.dumps(record, indent=1))  # last: it says that the others are there


def identity(cell: Cell, scale: Scale) -> dict[str, Any]:
    """What a record must be of for its cell not to be run again."""
    return {
        "config_sha256": config_of(cell, scale).sha256(),
        "window": list(cell.way.window),
        "checks": list(scale.checks),
        "prompts": scale.prompts,
    }


def is_done(cell: Cell, scale: Scale, out: Path) -> bool:
    """Whether there is a record of this very cell."""
    file = out / f"{cell.name}.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["identity"] == identity(cell, scale)


@lru_cache(maxsize=1)
def _exam(seed: int, steps: int, scale: Scale, prompts: Path, device: torch.device) -> Exam:
    """The examination of a seed at one length of the chain, made once in each process."""
    held_out = open_prompts(prompts).eval
    own = held_out[seed * scale.prompts : (seed + 1) * scale.prompts]
    assert len(own) == scale.prompts, f"{len(held_out)} held-out prompts are too few for seed {seed}"
    config = load_config(
        None,
        [
            f"evaluation.rewards=[{', '.join(MEASURES[:-1])}]",
            f"evaluation.sampler.steps={steps}",
            "evaluation.sampler.guidance_scale=1",
        ],
    )
    return Exam(config, own, seed, device)

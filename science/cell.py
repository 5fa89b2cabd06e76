"""One cell: train, examine on the way, and leave one record."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from science.design import REWARDS, STEPS, Cell, Scale
from science.exam import Exam


class WindowTrainer(Updates):
    """A trainer in which always the same steps train, with their inputs detached, in a chain that runs to its end."""

    def __init__(self, window: tuple[int, ...], config: Config, prompts: Path, out: Path) -> None:
        super().__init__(config, open_prompts(prompts), out, Processes())
        self.window = window

    def plan(self, _step: int) -> Plan:
        """What every update does."""
        return Plan(stop=self.config.sampler.steps - 1, trained=self.window, alpha=0.0)


def config_of(cell: Cell, scale: Scale) -> Config:
    """The resolved configuration of a cell."""
    return load_config(
        None,
        [
            f"rewards={{{REWARDS[cell.reward]}: 1.0}}",
            f"steps={scale.updates}",
            "processes=1",
            f"seed={cell.seed}",
            f"optimizer.learning_rate={cell.learning_rate}",
            f"evaluation.rewards=[{', '.join([*REWARDS.values(), 'brightness'])}]",
            f"evaluation.pictures_per_prompt={scale.pictures}",
            f"compute.keep_graphs={STEPS}",  # of all trained steps: the gradient is the same, and sooner there
            *cell.settings,
        ],
    )


def run_cell(cell: Cell, scale: Scale, prompts: Path, out: Path) -> None:
    """Train the cell and write `out/NAME.json` and `out/NAME.png`, a row of pictures for each check.

    A training that diverges ends early and says so in its record: that is a result too.
    """
    config = config_of(cell, scale)
    exam = _exam(cell.seed, scale, prompts)
    unused = out / "unused"
    trainer = (
        WindowTrainer(cell.window, config, prompts, unused)
        if cell.window
        else Updates(config, open_prompts(prompts), unused, Processes())
    )
    in_training, in_deployment = exam.guidance_scales
    record: dict[str, Any] = {"cell": cell.as_json(), "config_sha256": config.sha256(), "code": code_revision()}
    pictures = exam.base_pictures[in_training]
    checks = [{"update": 0, "guidance": guidance, "measures": found} for guidance, found in exam.base_measures.items()]
    rows, updates = [pictures], []
    try:
        for step in range(1, scale.updates + 1):
            made = trainer.update(step)
            updates.append({"reward": made.reward, "grad_norm": made.grad_norm, "seconds": made.seconds})
            if step in scale.checks:
                pictures = exam.draw(trainer.base, in_training)
                rows.append(pictures)
                measured = exam.measure(pictures, in_training)
                checks.append({"update": step, "guidance": in_training, "measures": measured})
    except DivergenceError as error:
        record["diverged"] = str(error)
    if cell.deployed:
        measured = exam.measure(exam.draw(trainer.base, in_deployment), in_deployment)
        checks.append({"update": len(updates), "guidance": in_deployment, "measures": measured})
    first = slice(0, None, scale.pictures)  # one of each prompt
    with replacing(out / f"{cell.name}.png") as written:
        contact_sheet([one for row in rows for one in to_pil(row[first])], scale.prompts, side=32, gap=0).save(written)
    write_text(out / f"{cell.name}.json", json.dumps(record | {"checks": checks, "updates": updates}, indent=1))


def is_done(cell: Cell, scale: Scale, out: Path) -> bool:
    """Whether there is a record of this very cell."""
    try:
        record = json.loads((out / f"{cell.name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    if record["cell"] != cell.as_json() or record["config_sha256"] != config_of(cell, scale).sha256():
        return False
    return "diverged" in record or {check["update"] for check in record["checks"]} >= set(scale.checks)


@lru_cache(maxsize=1)
def _exam(seed: int, scale: Scale, prompts: Path) -> Exam:
    """The examination of a seed, made once in each process."""
    held_out = open_prompts(prompts).eval
    own = held_out[seed * scale.prompts : (seed + 1) * scale.prompts]
    assert len(own) == scale.prompts, f"{len(held_out)} held-out prompts are too few for seed {seed}"
    return Exam(config_of(Cell("symmetry", (), 1e-3, seed), scale), own, seed)

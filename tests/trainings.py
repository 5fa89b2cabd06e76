"""Short trainings of the miniature."""

from __future__ import annotations

from pathlib import Path

from drtune.config import load_config
from drtune.prompts.prepare import open_prompts
from drtune.training.processes import Processes
from drtune.training.run import Trainer

SHORT = [
    "batch_size=2",
    "sampler.steps=4",
    "method.trained_steps=2",
    "method.early_stop=2",
    "checkpoint_every=2",
    "evaluation.sampler.steps=2",
    "evaluation.sampler.guidance_scale=1",
]


def trainer_of(overrides: list[str], prompts: Path, out: Path) -> Trainer:
    out.mkdir(exist_ok=True)
    return Trainer(load_config(None, overrides), open_prompts(prompts), out, Processes())

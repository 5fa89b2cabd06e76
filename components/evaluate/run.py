"""Evaluate in a child process and show its page."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kfp import dsl

from components.process import run_process


def evaluate_model(
    prompts: dsl.Dataset, model: dsl.Model, overrides: Sequence[str], report: dsl.Artifact, page: dsl.HTML
) -> None:
    """Run `drtune evaluate` into the folder of `report` and copy its page to `page`.

    Raises:
        UserError: the model, the prompts or the overrides cannot be used.
        RuntimeError: the evaluation failed; its last lines are in the message.
    """
    command = [sys.executable, "-m", "drtune.commands", "evaluate"]
    places = ["--model", model.path, "--prompts", prompts.path, "--out", report.path]
    run_process([*command, *places, *(f"--set={override}" for override in overrides)])
    shutil.copyfile(Path(report.path) / "report.html", page.path)

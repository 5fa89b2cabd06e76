"""Evaluate in a child process, against the model that it would replace in production."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from components.process import run_process, take_up
from components.registry import place_of
from drtune.contracts import TunedModel
from drtune.errors import UserError
from drtune.publishing.registry import Registry

NVIDIA = Path("/dev/nvidiactl")
"""There wherever a container has a GPU of NVIDIA's."""


def evaluate_model(
    prompts: str,
    model: str,
    overrides: Sequence[str],
    references: Sequence[str],
    registry: str,
    name: str,
    gpus: str,
    gpu_resource: str,
    report: str,
) -> None:
    """Run `drtune evaluate` on the model, the prompts and the champion into the folder `report`.

    Raises:
        UserError: GPUs were asked for and are not here; or the model, the prompts, a reference, the registry or the
            overrides cannot be used.
        RuntimeError: the evaluation failed; its last lines are in the message.
    """
    if gpus != "0" and gpu_resource.startswith("nvidia.com/") and not NVIDIA.exists():
        raise UserError(f"evaluation_gpus={gpus}: this step sees no GPU; give 0, or see to it that a node has one")
    take_up(Path(f"{report}.partial"))
    command = [sys.executable, "-m", "drtune.cli.main", "evaluate"]
    options = ["--model", model, "--prompts", prompts, "--out", report]
    options += [f"--reference={reference}" for reference in references]
    options += [f"--set={override}" for override in overrides]
    with tempfile.TemporaryDirectory() as scratch:
        champion = Path(scratch) / "champion"
        published = Registry(place_of(registry))
        if entry := published.champion(name, TunedModel.load(model)):
            published.pull(name, entry.version, champion)
            print(f"champion: {entry.name} {entry.version}", flush=True)
            options += ["--champion", str(champion)]
        run_process([*command, *options])

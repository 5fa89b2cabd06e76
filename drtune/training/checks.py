"""What a run needs beside its configuration, looked at before anything heavy: this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from drtune.config import Config, load_config
from drtune.contracts import CONFIG
from drtune.errors import UserError
from drtune.files.folders import check_file, check_place
from drtune.files.output import base_folder
from drtune.models.index import commit_of, is_commit
from drtune.prompts.compositional import read_tasks
from drtune.rewards.files import check_own


def check_start(config: Config) -> None:
    """Refuse to begin what could not be logged or scored in the end.

    Raises:
        UserError: a package is asked for and not installed, a file of your own rewards, or of compositional prompts,
            cannot be read, or there are no pictures where they should be.
    """
    check_own(config.reward_names)
    check_places(config)
    if config.wandb_project:
        _installed(f"wandb_project={config.wandb_project}: Weights & Biases", "wandb")
    if config.mlflow_experiment:
        _installed(f"mlflow_experiment={config.mlflow_experiment}: MLflow", "mlflow", "mlflow-skinny")
    check_bitsandbytes(config)


def check_bitsandbytes(config: Config) -> None:
    """Refuse settings that take bitsandbytes, which is an extra, where it is not.

    Raises:
        UserError: naming one.
    """
    if config.optimizer.eight_bit:
        _installed("optimizer.eight_bit=true: bitsandbytes", "bitsandbytes")
    if config.compute.quantization == "nf4":
        _installed("compute.quantization=nf4: bitsandbytes", "bitsandbytes")


def check_places(config: Config, can_be_read: Callable[[str], bool] = lambda _place: True) -> None:
    """Refuse places in which there is nothing, of those that can be read here.

    They are those of pictures, of the adapter that a run begins from, and of compositional prompts.

    Raises:
        UserError: there is nothing, or no compositional prompts.
    """
    if (start := config.start) and can_be_read(start):
        check_file("lora.init", start)
    if (pictures := config.method.pictures) and can_be_read(pictures):
        check_place("method.pictures", pictures)
    if (file := config.evaluation.capability.file) and can_be_read(file):
        read_tasks(file)


def base_commit(config: Config, out: Path | None) -> str | None:
    """The commit of the base: that of the run in `out` which goes on, else the one that the hub has now.

    A branch or a tag says where a run begins: one that began on a commit goes on with it, whatever they are by now. A
    run that began without one, as those of earlier versions did, goes on without.

    Raises:
        UserError: there is no such base, or a local folder is given a revision.
    """
    if out:
        with suppress(UserError):  # none, or damaged: then the newest checkpoint refuses what it was not made with
            begun = load_config(out / CONFIG)
            moves = is_commit(begun.base_revision) and not is_commit(config.base_revision)
            if begun.base_model == config.base_model and (moves or config.base_revision in (None, begun.base_revision)):
                return begun.base_revision
    if config.base_revision is not None and base_folder(config.base_model):
        raise UserError(
            f"base_revision={config.base_revision!r} is for a hub id, and base_model={config.base_model!r} is a folder "
            "here: leave it out"
        )
    return commit_of(config.base_model, config.base_revision)


def _installed(told: str, *packages: str) -> None:
    """Refuse if none of the packages is, the last of which is the least that does."""
    for package in packages:
        with suppress(PackageNotFoundError):
            version(package)  # the package itself: a folder of its name could be imported too
            return
    raise UserError(f"{told} is not installed: pip install {packages[-1]}")

"""Train, in a child process or on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import dsl

from components.metadata import describe
from components.process import run_process, take_up
from components.train.launch import train_on_cluster
from components.train.spec import load_spec
from drtune.config import Config, load_config
from drtune.contracts import CONFIG, TunedModel
from drtune.errors import UserError
from drtune.files.local import write_text
from drtune.training.mirror import as_kept_at
from drtune.training.summary import SUMMARY


def train_model(
    prompts: dsl.Dataset,
    config: str,
    overrides: Sequence[str],
    cluster: str,
    cluster_overrides: Sequence[str],
    model: dsl.Model,
    metrics: dsl.Metrics,
) -> None:
    """Train into the folder of `model`, and describe the result in the artifacts' metadata.

    Without `cluster` it is `drtune train` in a process here; else a job on the cluster that it describes.

    Raises:
        UserError: the configuration or the prompts cannot be used.
        RuntimeError: training failed, or what a cluster left is not what its manifest says.
    """
    if cluster:
        spec = load_spec(cluster, cluster_overrides)
        train_on_cluster(load_config(config, overrides), Path(prompts.path), spec, Path(model.path))
    elif cluster_overrides:
        raise UserError(f"cluster_overrides={list(cluster_overrides)}: cluster is empty; give cluster=FILE")
    else:
        _train_here(prompts.path, load_config(config, overrides), model.path)
    tuned = TunedModel.load(model.path)
    tell_addresses(Path(model.path), model.uri)
    describe(model, tuned.model_dump(mode="json", exclude={"prompts"}) | {"prompts_sha256": tuned.prompts.sha256})
    describe(metrics, {"reward": tuned.reward, "updates": tuned.step})


def _train_here(prompts: str, config: Config, out: str) -> None:
    take_up(Path(out))
    with TemporaryDirectory() as scratch:
        settings = Path(scratch) / CONFIG
        write_text(settings, config.to_yaml())
        command = [sys.executable, "-m", "drtune.cli.main", "train", "--resume"]
        run_process([*command, "--config", str(settings), "--prompts", prompts, "--out", out])


def tell_addresses(model: Path, uri: str) -> None:
    """Let the summary of a model from a pod, whose paths are gone with it, name the model by its address."""
    summary = model / SUMMARY
    if uri != str(model) and summary.is_file():
        write_text(summary, as_kept_at(uri, summary.read_text(encoding="utf-8"), model))

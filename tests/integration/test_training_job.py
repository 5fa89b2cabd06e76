"""The train step on a cluster from its parameters to its model: a real step, nodes and S3, and a played operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.train.spec import load_spec
from drtune.contracts import TunedModel
from drtune.files.storage import open_storage
from drtune.models.tuned import open_tuned
from tests.cluster_api import ClusterApi
from tests.operator import JOBS, Played, PlayedJob, until
from tests.s3 import BUCKET, S3Server

ROOT = Path(__file__).parents[2]
STEP = """
import json, sys
from kfp import dsl
from components.train.run import train_model

prompts, out, config, cluster = sys.argv[1:5]
model, metrics = dsl.Model(uri=out), dsl.Metrics()
train_model(dsl.Dataset(uri=prompts), config, sys.argv[5:], cluster, ["elastic=null", "nodes=1"], model, metrics)
print("metadata", json.dumps([model.metadata, metrics.metadata]))
"""
FEW_STEPS = ["steps=24", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "checkpoint_every=2"]


class RealNode:
    """The container of a played job, as a process: what it writes is the pod's log, and how it ends the pod's end."""

    def __init__(self, job: PlayedJob, work: Path, environment: dict[str, str]) -> None:
        spec = job.api.objects[JOBS, job.name]["spec"]["pytorchReplicaSpecs"]["Master"]
        assert spec["restartPolicy"] == "ExitCode"
        (container,) = spec["template"]["spec"]["containers"]
        arguments = [f"--work={work}" if argument.startswith("--work=") else argument for argument in container["args"]]
        assert container["command"] == ["python", "-m", "drtune.training.node"]
        self.job, self.name = job, job.runs(0)
        self.process = subprocess.Popen(
            [sys.executable, *container["command"][1:], *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ends(self) -> int:
        with self.process:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.job.api.write(self.name, line.rstrip(b"\n"))
        code = self.process.returncode
        self.job.ends(0, code)
        return code


@pytest.mark.slow
def test_the_step_trains_on_a_cluster_through_an_eviction(s3_server: S3Server, prompts: Path, tmp_path: Path) -> None:
    environment = {**os.environ, **s3_server.environment, "OMP_NUM_THREADS": "1"}
    storage = open_storage(f"s3://{BUCKET}/runs/e2e/train", s3_server.environment)
    (tmp_path / "cluster.yaml").write_text(
        yaml.safe_dump({"storage": f"s3://{BUCKET}/runs", "gpus_per_node": 0, "queue": "nightly"})
    )
    out = tmp_path / "steps" / "model"

    def script(job: PlayedJob) -> None:
        job.says("Created")
        node = RealNode(job, tmp_path / "first", environment)
        job.says("Running")
        until(lambda: storage.keys("model/checkpoints"), seconds=100)
        node.process.terminate()
        assert node.ends() == 143
        job.says("Restarting", "1 Master replica(s) failed")
        job.is_restarted(0)
        node = RealNode(job, tmp_path / "second", environment)
        job.says("Running")
        assert node.ends() == 0
        job.says("Succeeded")

    with ClusterApi() as api, Played(api, script):
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(api.url)))
        step = subprocess.run(
            [sys.executable, "-c", STEP, prompts, out, "configs/miniature.yaml", tmp_path / "cluster.yaml", *FEW_STEPS],
            cwd=ROOT,
            env=environment | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "DRTUNE_RUN_ID": "e2e"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        left = api.of("pytorchjobs")
    assert step.returncode == 0, step.stderr
    assert left == []
    model, config = open_tuned(out)
    trained = TunedModel.load(tmp_path / "second" / "model")
    assert model == trained.model_copy(update={"cluster_sha256": load_spec(tmp_path / "cluster.yaml").sha256()})
    assert (model.step, config.steps) == (24, 24)
    assert not (out / "checkpoints").exists()
    lines = step.stdout.splitlines()
    assert "training job drtune-e2e: created, for what is asked at s3://models/runs/e2e/train" in lines
    assert "[rank 0] was ended by SIGTERM" in lines
    assert any(line.startswith("[rank 0] stopped by SIGTERM after update ") for line in lines)
    assert any(line.startswith("[rank 0] tuned model: ") for line in lines)
    assert '"step": 24' in lines[-1]


def kubeconfig(url: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "a-token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }


def test_a_step_outside_of_a_run_is_refused_before_anything_is_asked(prompts: Path, tmp_path: Path) -> None:
    step = subprocess.run(
        [sys.executable, "-c", STEP, prompts, tmp_path / "out", "configs/miniature.yaml", "configs/cluster.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert step.returncode == 1
    assert step.stderr.splitlines()[-1].startswith("drtune.errors.UserError: DRTUNE_RUN_ID is not set")

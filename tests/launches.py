"""A launcher as a test tries it, and what a played job does for it."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from components.train.cluster import Cluster
from components.train.launch import Launch, Run
from components.train.logs import StepLog
from components.train.spec import JobSpec
from drtune.config import Config, load_config
from drtune.contracts import CONFIG, MANIFEST, PromptSet, TunedModel
from drtune.files.local import sha256_bytes
from drtune.files.storage import Storage, open_storage
from tests.cluster_api import ClusterApi
from tests.operator import PODS, PlayedJob
from tests.reports import tuned_model

POD = "tune-5rn9p-retry-system-container-impl-791495155"
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "tune-5rn9p", "uid": "0a1b"}
"""Argo's, which owns the pods of its steps as their controller."""
WEIGHTS = b"tuned weights"


class Tried:
    """A launcher's try: what it is given, and what it wrote."""

    def __init__(self, api: ClusterApi, root: Path, prompts: Path, run_id: str = "4b1c", **settings: object) -> None:
        self.api, self.prompts, self.out = api, prompts, root / run_id / "model"
        self.config: Config = load_config(None, ["steps=2"])
        self.storage: Storage = open_storage(str(root / run_id / "s3"))
        spec: dict[str, object] = {"storage": "s3://runs", "backend": "pytorchjob", "nodes": 2}
        spec |= {"restarts": 3, "start_timeout_seconds": 60} | settings
        owner = {**WORKFLOW, "controller": True, "blockOwnerDeletion": True}
        api.put(PODS, {"metadata": {"name": POD, "labels": {}, "ownerReferences": [owner]}, "status": {}})
        self.written = io.BytesIO()
        self.cluster = Cluster(api.client(), "default", patience_seconds=20)
        self.cancelled = threading.Event()
        job, run, log = JobSpec.model_validate(spec), Run(run_id, POD), StepLog(self.written)
        self.launch = Launch(self.cluster, self.storage, job, run, log, self.cancelled)

    def train(self) -> TunedModel:
        self.launch.train(self.config, self.prompts, self.out)
        return TunedModel.load(self.out)

    def answers(self, weights: bytes = WEIGHTS, claimed: bytes = WEIGHTS) -> None:
        """Leave a model in S3, as rank 0 does."""
        model = tuned_model(
            weights_sha256=sha256_bytes(claimed),
            step=2,
            config_sha256=self.config.sha256(),
            prompts=PromptSet.load(self.prompts),
        )
        self.storage.write(f"model/{model.weights_file}", weights)
        self.storage.write(f"model/{CONFIG}", self.config.to_yaml().encode())
        self.storage.write(f"model/{MANIFEST}", model.manifest().encode())

    @property
    def log(self) -> str:
        return self.written.getvalue().decode()

    def left(self) -> list[str]:
        """The jobs that are there, and the pods of this one."""
        names = [item["metadata"]["name"] for plural in ("pytorchjobs", "trainjobs") for item in self.api.of(plural)]
        pods = [pod["metadata"]["name"] for pod in self.api.of("pods")]
        return names + [pod for pod in pods if pod.startswith(self.launch.name)]

    def made_too_late(self) -> list[str]:
        """The pods that were made after the launcher had deleted the job."""
        made: list[str] = []
        is_deleted = False
        for _, where, kind, item in self.api.changes:
            if item["metadata"]["name"] == self.launch.name:
                is_deleted = kind == "DELETED" or "deletionTimestamp" in item["metadata"]
            elif where == PODS and kind == "ADDED" and is_deleted:
                made.append(item["metadata"]["name"])
        return made


def trains(job: PlayedJob) -> None:
    job.says("Created")
    for node in range(2):
        job.runs(node)
    job.says("Running")


def succeeds(tried: Tried, job: PlayedJob) -> None:
    tried.answers()
    for node in range(2):
        job.ends(node, 0, f"the end of {node}")
    job.says("Succeeded")


def to_the_end(tried: Tried, job: PlayedJob) -> None:
    trains(job)
    succeeds(tried, job)

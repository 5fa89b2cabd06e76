"""The launcher against an API server that enforces the schemas and misbehaves; a test plays the training operator.

In none of these a failed training is green, a job is made twice, or a job is left behind.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.train.cluster import Cluster
from components.train.job import Owner, job_name
from components.train.launch import Launch, Run
from components.train.logs import StepLog
from components.train.spec import JobSpec
from drtune.config import Config, load_config
from drtune.contracts import CONFIG, MANIFEST, PromptSet, TunedModel
from drtune.files import sha256_bytes
from drtune.prompts import prepare
from drtune.storage import Storage, open_storage
from tests.cluster_api import ClusterApi
from tests.operator import JOBS, Played, PlayedJob, until

OWNER = Owner("launcher-pod", "0a1b")
WEIGHTS = b"tuned weights"


@pytest.fixture
def api() -> Iterator[ClusterApi]:
    with ClusterApi() as server:
        yield server


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "prompts.txt").write_text("".join(f"a red circle, number {number}\n" for number in range(30)))
    prepare(folder / "prompts.txt", folder / "set")
    return folder / "set"


class Tried:
    """A launcher's try: what it is given, and what it wrote."""

    def __init__(self, api: ClusterApi, root: Path, prompts: Path, run_id: str = "4b1c", **settings: object) -> None:
        self.api, self.prompts, self.out = api, prompts, root / run_id / "model"
        self.config: Config = load_config(None, ["steps=2"])
        self.storage: Storage = open_storage(str(root / run_id / "s3"))
        spec = {"storage": "s3://runs", "nodes": 2, "restarts": 3, "start_timeout_seconds": 60} | settings
        self.written = io.BytesIO()
        self.cluster = Cluster(api.client(), "default", patience_seconds=20)
        self.launch = Launch(
            self.cluster, self.storage, JobSpec.model_validate(spec), Run(run_id, OWNER), StepLog(self.written)
        )

    def train(self) -> TunedModel:
        self.launch.train(self.config, self.prompts, self.out)
        return TunedModel.load(self.out)

    def answers(self, weights: bytes = WEIGHTS, claimed: bytes = WEIGHTS) -> None:
        """Leave a model in S3, as rank 0 does."""
        model = TunedModel(
            weights_sha256=sha256_bytes(claimed),
            base_model="miniature",
            base_revision=None,
            step=2,
            config_sha256=self.config.sha256(),
            prompts=PromptSet.load(self.prompts),
            code_revision=None,
            reward=0.5,
        )
        self.storage.write(f"model/{model.weights_file}", weights)
        self.storage.write(f"model/{CONFIG}", self.config.to_yaml().encode())
        self.storage.write(f"model/{MANIFEST}", model.manifest().encode())

    @property
    def log(self) -> str:
        return self.written.getvalue().decode()

    def left(self) -> list[str]:
        return [job["metadata"]["name"] for job in self.api.of("pytorchjobs")]


@pytest.fixture
def tried(api: ClusterApi, tmp_path: Path, prompts: Path) -> Tried:
    return Tried(api, tmp_path, prompts)


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


# --- it goes well -----------------------------------------------------------------------------------------------------


def test_a_training_that_succeeds_gives_its_model_and_leaves_no_job(api: ClusterApi, tried: Tried) -> None:
    seen: dict[str, object] = {}

    def script(job: PlayedJob) -> None:
        seen.update(api.objects[JOBS, job.name])
        assert tried.storage.read(f"request/{CONFIG}").decode() == tried.config.to_yaml()
        assert PromptSet.model_validate_json(tried.storage.read("request/prompts/manifest.json"))
        trains(job)
        api.write(job.runs(1), "step 1", "step 2")
        succeeds(tried, job)

    with Played(api, script):
        assert tried.train().step == 2
    assert (tried.out / "adapter" / "pytorch_lora_weights.safetensors").read_bytes() == WEIGHTS
    assert tried.left() == []
    assert seen["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid  # type: ignore[index]
    lines = tried.log.splitlines()
    assert [line for line in lines if line.startswith("[rank 1] ")] == [
        "[rank 1] step 1",
        "[rank 1] step 2",
        "[rank 1] the end of 1",
    ]
    assert "[rank 0] the end of 0" in lines
    assert "training job drtune-4b1c: running" in lines


def test_two_runs_at_once_do_not_mix(api: ClusterApi, tmp_path: Path, prompts: Path) -> None:
    one, two = (Tried(api, tmp_path, prompts, run_id) for run_id in ("one", "two"))
    results: list[TunedModel] = []

    def plays(job: PlayedJob) -> None:
        tried = one if job.name == job_name("one") else two
        trains(job)
        api.write(job.runs(0), f"I am {job.name}")
        until(lambda: len(api.of("pytorchjobs")) == 2 or results)
        succeeds(tried, job)

    # SIGTERM is heard by the main thread alone, so the other launcher is a process.
    pid = os.fork()
    if pid == 0:
        try:
            two.train()
            assert "I am drtune-two" in two.log
            assert "I am drtune-one" not in two.log
        except BaseException:
            os._exit(1)
        os._exit(0)
    players = [threading.Thread(target=plays, args=(job,)) for job in ()]
    with Played(api, plays, plays):
        results.append(one.train())
    assert os.waitpid(pid, 0)[1] == 0
    assert not players
    assert "I am drtune-one" in one.log
    assert "I am drtune-two" not in one.log
    assert one.left() == []

"""The launcher against an API server that enforces the schemas and misbehaves; a test plays the training operator.

In none of these a failed training is green, a job is made twice, or a job is left behind.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.train.cluster import Cluster, ClusterError
from components.train.follow import TrainingFailedError
from components.train.job import Owner, job_name, to_job
from components.train.launch import Launch, Run, ending_by_sigterm
from components.train.logs import StepLog
from components.train.spec import JobSpec
from drtune.config import Config, load_config
from drtune.contracts import CONFIG, MANIFEST, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.files import sha256_bytes
from drtune.prompts import prepare
from drtune.storage import Storage, open_storage
from tests.cluster_api import ClusterApi, now
from tests.operator import EVENTS, JOBS, Played, PlayedJob, until

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
    both = {job_name(run_id): Tried(api, tmp_path, prompts, run_id) for run_id in ("one", "two")}

    def plays(job: PlayedJob) -> None:
        until(lambda: len(api.of("pytorchjobs")) == 2)
        trains(job)
        api.write(job.runs(0), f"I am {job.name}")

    def plays_both_to_the_end(job: PlayedJob) -> None:
        plays(job)
        for name in both:
            succeeds(both[name], PlayedJob(api, api.objects[JOBS, name]))

    with Played(api, plays, plays_both_to_the_end), ThreadPoolExecutor(2) as pool:
        models = list(pool.map(Tried.train, both.values()))
    assert models[0] == models[1]
    for name, tried in both.items():
        (other,) = both.keys() - {name}
        assert f"[rank 0] I am {name}" in tried.log
        assert other not in tried.log
        assert tried.left() == []


def test_a_retried_launcher_adopts_the_job_and_follows_it_from_its_first_line(api: ClusterApi, tried: Tried) -> None:
    """The first try was killed: it could not delete anything."""
    job = api.put(JOBS, to_job(tried.launch.spec, tried.launch.name, "s3://runs", Owner("first-try", "dead")))
    uid = job["metadata"]["uid"]
    played = PlayedJob(api, job)
    trains(played)
    api.write(played.runs(0), "written before the first launcher was killed")
    owners: list[object] = []

    def script(job: PlayedJob) -> None:
        until(lambda: "adopted" in tried.log)
        owners.append(api.objects[JOBS, job.name]["metadata"]["ownerReferences"])
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
    assert owners == [[{"apiVersion": "v1", "kind": "Pod", "name": OWNER.name, "uid": OWNER.uid}]]
    assert "[rank 0] written before the first launcher was killed" in tried.log
    assert {change[3]["metadata"]["uid"] for change in api.changes if change[1] == JOBS} == {uid}  # and no other job
    assert tried.left() == []


def test_a_model_that_an_earlier_try_had_made_needs_no_job(api: ClusterApi, tried: Tried) -> None:
    tried.answers()
    assert tried.train().step == 2
    assert api.requests == []
    assert "already" in tried.log


def test_a_job_that_an_earlier_try_is_deleting_is_waited_for(api: ClusterApi, tried: Tried) -> None:
    old = to_job(tried.launch.spec, tried.launch.name, "s3://runs")
    old["metadata"]["deletionTimestamp"] = now()
    api.put(JOBS, old)
    threading.Timer(0.5, api.remove, (JOBS, tried.launch.name)).start()

    def nothing(_job: PlayedJob) -> None: ...

    with Played(api, nothing, lambda job: to_the_end(tried, job)):
        tried.train()
    assert "created" in tried.log
    assert "adopted" not in tried.log


# --- it fails ---------------------------------------------------------------------------------------------------------


def test_the_failure_of_one_rank_is_told_with_its_last_lines(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        job.ends(1, 1, "ArithmeticError: broken", "rank 1 ended with exit code 1")
        job.ends(0, 143, "another process went away")
        job.says("Failed", "1 Worker replica(s) failed")

    with Played(api, script), pytest.raises(TrainingFailedError) as failure:
        tried.train()
    assert str(failure.value).splitlines() == [
        "training job drtune-4b1c failed: 1 Worker replica(s) failed; rank 1 ended with exit code 1; it wrote last:",
        "  ArithmeticError: broken",
        "  rank 1 ended with exit code 1",
    ]
    assert tried.left() == []
    assert not tried.out.exists()


def test_a_mistake_of_the_user_found_by_a_rank_stays_one(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        job.ends(0, 2, "error: base_model='nowhere': no such model", "rank 0 ended with exit code 2")
        job.says("Failed")

    with Played(api, script), pytest.raises(UserError, match=r"^base_model='nowhere': no such model$"):
        tried.train()
    assert tried.left() == []


def test_a_pod_whose_log_is_gone_is_quoted_from_its_status(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        api.fault("GET", "-worker-0/log", 404, times=9)
        trains(job)
        job.ends(1, 1, kept="Traceback\nValueError: in the status\n")
        job.says("Failed", "it failed")

    with (
        Played(api, script),
        pytest.raises(TrainingFailedError, match=r"rank 1 .* wrote last:\n.*\n  ValueError: in the"),
    ):
        tried.train()


def test_a_job_that_says_both_has_not_succeeded(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        tried.answers()
        entries = [{"type": kind, "status": "True", "message": "both"} for kind in ("Succeeded", "Failed")]
        api.put(JOBS, {**api.objects[JOBS, job.name], "status": {"conditions": entries}})

    with Played(api, script), pytest.raises(TrainingFailedError, match="failed: both"):
        tried.train()


def test_a_job_that_vanishes_has_not_succeeded(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        api.remove(JOBS, job.name)

    with Played(api, script), pytest.raises(TrainingFailedError, match="drtune-4b1c vanished"):
        tried.train()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: None, "succeeded and left no model here"),
        (lambda tried: tried.answers(claimed=b"others"), "sha256 is .*, the manifest says"),
        (lambda tried: tried.answers() or tried.storage.delete("model/config.yaml"), "config.yaml: .* is not there"),
        (lambda tried: tried.answers() or tried.storage.write("model/config.yaml", b"steps: 3"), "sha256 is"),
        (lambda tried: tried.storage.write("model/manifest.json", b"{}"), "not a TunedModel"),
    ],
    ids=["no model", "wrong weights", "no config", "wrong config", "no manifest of ours"],
)
def test_a_model_that_is_not_what_it_says_fails_the_step(
    api: ClusterApi, tried: Tried, spoil: Callable[[Tried], object], message: str
) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        spoil(tried)
        job.says("Succeeded")

    with Played(api, script), pytest.raises(RuntimeError, match=message):
        tried.train()
    assert tried.left() == []
    assert not tried.out.exists()


# --- it is restarted, or waits ----------------------------------------------------------------------------------------


def test_an_evicted_node_is_a_restart_and_not_a_failure(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}
        job.ends(1, 143, "saved update 7", **evicted)
        job.ends(0, 143)
        job.says("Restarting", "2 replica(s) failed")
        until(lambda: "restarting" in tried.log and "evicted" in tried.log and "saved update 7" in tried.log)
        for node in range(2):
            job.is_restarted(node)
        trains(job)
        api.write(job.runs(1), "going on from update 7")
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
    assert "[rank 1] was ended by SIGTERM, evicted: The node was low on resource: memory." in tried.log
    assert "restarting from its newest checkpoint, not failed (2 replica(s) failed)" in tried.log
    assert tried.log.count("[rank 1] saved update 7\n") == 1
    assert tried.log.count("[rank 1] going on from update 7\n") == 1


def test_a_node_that_is_lost_again_and_again_ends_the_training(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        job.says("Running")
        for number in range(tried.launch.spec.restarts + 1):
            job.ends(0, 137, f"try {number}")
            until(lambda number=number: f"try {number}" in tried.log)
            job.is_restarted(0)
        job.runs(0)

    with Played(api, script), pytest.raises(TrainingFailedError, match="restarted 4 times, more than restarts=3"):
        tried.train()
    assert tried.left() == []


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/5 nodes: 5 Insufficient gpu."}]},
            "cannot be scheduled: 0/5 nodes: 5 Insufficient gpu.",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "pytorch",
                        "image": "x:1",
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}},
                    }
                ]
            },
            "cannot pull its image x:1: no",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "pytorch",
                        "state": {
                            "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}
                        },
                    }
                ]
            },
            'cannot start: CreateContainerConfigError: secret "s" not found',
        ),
    ],
    ids=["no place", "no image", "no secret"],
)
def test_a_pod_that_does_not_start_says_why_and_ends_the_step_in_time(
    api: ClusterApi, tmp_path: Path, prompts: Path, status: dict[str, object], told: str
) -> None:
    tried = Tried(api, tmp_path, prompts, start_timeout_seconds=3)

    def script(job: PlayedJob) -> None:
        job.says("Created")
        job.pod(1, phase="Pending", **status)

    with (
        Played(api, script),
        pytest.raises(TrainingFailedError, match="did not start in start_timeout_seconds=3") as late,
    ):
        tried.train()
    assert f"[rank 1] {told}" in tried.log
    assert told in str(late.value)
    assert tried.left() == []


def test_a_job_in_a_queue_is_told_from_one_that_trains(api: ClusterApi, tmp_path: Path, prompts: Path) -> None:
    tried = Tried(api, tmp_path, prompts, queue="nightly")

    def script(job: PlayedJob) -> None:
        labels = api.objects[JOBS, job.name]["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "nightly"
        job.says("Suspended", "no quota left")
        until(lambda: "suspended" in tried.log)
        to_the_end(tried, job)

    with Played(api, script):
        tried.train()
    assert "suspended, waits for queue nightly (no quota left)" in tried.log


def test_a_job_without_pods_is_explained_by_its_events(api: ClusterApi, tried: Tried) -> None:
    quota = {"involvedObject": {"name": tried.launch.name}, "type": "Warning"}
    quota |= {"reason": "FailedCreatePod", "message": "exceeded quota: gpus"}
    api.put(EVENTS, {"metadata": {"name": "event"}, **quota})

    def script(job: PlayedJob) -> None:
        # It was created a while ago, for all that the launcher knows.
        until(lambda: "has no pods: FailedCreatePod: exceeded quota: gpus" in tried.log)
        to_the_end(tried, job)

    api.clock = lambda: "2026-01-01T00:00:00Z"
    tried.launch.spec = tried.launch.spec.model_copy(update={"start_timeout_seconds": 10**9})
    with Played(api, script):
        tried.train()


def test_the_deadline_of_a_running_job_ends_it(api: ClusterApi, tmp_path: Path, prompts: Path) -> None:
    tried = Tried(api, tmp_path, prompts, run_timeout_seconds=1)

    def script(job: PlayedJob) -> None:
        assert api.objects[JOBS, job.name]["spec"]["runPolicy"]["activeDeadlineSeconds"] == 1
        job.runs(0)
        job.says("Running", startTime="2026-01-01T00:00:00Z")  # an operator that keeps no deadline

    with Played(api, script), pytest.raises(TrainingFailedError, match="did not end in run_timeout_seconds=1"):
        tried.train()
    assert tried.left() == []


def test_a_batch_that_the_processes_cannot_share_asks_for_nothing(
    api: ClusterApi, tmp_path: Path, prompts: Path
) -> None:
    tried = Tried(api, tmp_path, prompts, nodes=3)
    with pytest.raises(UserError, match="batch_size=8: cannot be shared evenly by the 3 processes of 3 nodes"):
        tried.train()
    assert api.requests == []


# --- it is cancelled --------------------------------------------------------------------------------------------------


def test_a_cancelled_step_deletes_its_job_and_waits_until_it_is_gone(api: ClusterApi, tried: Tried) -> None:
    api.slow_deletion = True

    def script(job: PlayedJob) -> None:
        trains(job)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: api.counted("DELETE", job.name))
        os.kill(os.getpid(), signal.SIGTERM)  # impatience changes nothing
        time.sleep(0.5)
        api.remove(JOBS, job.name)

    with Played(api, script), pytest.raises(SystemExit) as ended, ending_by_sigterm():
        tried.train()
    assert ended.value.code == 143
    assert tried.left() == []
    assert "cancelled" in tried.log


def test_a_launcher_that_is_cancelled_before_it_hears_of_its_job_deletes_it_too(api: ClusterApi, tried: Tried) -> None:
    api.fault("POST", "pytorchjobs", 500, times=99, after=True)

    def script(_job: PlayedJob) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with Played(api, script), pytest.raises(SystemExit), ending_by_sigterm():
        tried.train()
    assert tried.left() == []


# --- the server misbehaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503, 0], ids=["429", "500", "503", "no answer"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "pytorchjobs"), ("GET", "pytorchjobs"), ("DELETE", "pytorchjobs")]
)
def test_a_server_that_is_busy_broken_or_away_is_asked_again(
    api: ClusterApi, tried: Tried, status: int, method: str, path: str
) -> None:
    api.fault(method, path, status, times=2, Retry_After="1")
    with Played(api, lambda job: to_the_end(tried, job)):
        tried.train()
    assert tried.left() == []
    assert api.counted("POST") == (3 if method == "POST" else 1)


@pytest.mark.parametrize("status", [409, 500, 0], ids=["409", "500", "no answer"])
def test_a_job_whose_creation_was_not_confirmed_is_not_made_twice(api: ClusterApi, tried: Tried, status: int) -> None:
    api.fault("POST", "pytorchjobs", status, after=True)
    with Played(api, lambda job: to_the_end(tried, job)):
        tried.train()
    assert len({change[3]["metadata"]["uid"] for change in api.changes if change[1] == JOBS}) == 1
    assert "adopted" in tried.log


def test_a_watch_that_breaks_goes_on_where_it_was(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        until(lambda: "running" in tried.log)
        api.break_streams()
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
    versions = [where for _, where in api.requests if "watch=true" in where and "pytorchjobs" in where]
    assert len(versions) == 2
    assert "resourceVersion=2&" not in versions[1] + "&"
    assert api.counted("GET", "/pytorchjobs?fieldSelector") == 3  # listed once, watched twice


@pytest.mark.parametrize("gone", ["in the stream", "as an answer"])
def test_a_server_that_forgot_the_past_is_asked_for_all_anew(api: ClusterApi, tried: Tried, gone: str) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        until(lambda: "running" in tried.log)
        with api.news:
            if gone == "as an answer":
                api.fault("GET", "watch=true", 410, times=2)
            api.break_streams()
            job.runs(1)
            succeeds(tried, job)
            if gone == "in the stream":
                api.forget()

    with Played(api, script):
        tried.train()
    assert tried.log.count("[rank 1] the end of 1\n") == 1


def test_a_job_deleted_while_nobody_watched_has_vanished(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        until(lambda: "running" in tried.log)
        with api.news:
            api.break_streams()
            api.remove(JOBS, job.name)
            api.forget()

    with Played(api, script), pytest.raises(TrainingFailedError, match="vanished"):
        tried.train()


def test_a_server_that_stays_away_is_given_up_in_time(api: ClusterApi, tried: Tried) -> None:
    tried.cluster.patience_seconds = 2
    api.fault("GET", "pods", 500, times=10**6)
    with Played(api, trains), pytest.raises(ClusterError, match="did not do it in 2 s: 500"):
        tried.train()
    assert tried.left() == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not know us"),
        (403, "grant it to the launcher's service account"),
        (404, "has no PyTorchJob .* install its operator"),
        (422, "refuses the training job"),
    ],
)
def test_what_the_server_refuses_is_told_in_one_line(api: ClusterApi, tried: Tried, status: int, message: str) -> None:
    api.fault("POST", "pytorchjobs", status)
    with pytest.raises(UserError, match=message) as refusal:
        tried.train()
    assert "\n" not in str(refusal.value)


def test_logs_that_end_early_are_taken_up_without_a_gap_or_a_repetition(api: ClusterApi, tried: Tried) -> None:
    api.log_limit = 7

    def script(job: PlayedJob) -> None:
        trains(job)
        for number in range(20):
            api.write(job.runs(0), f"line {number}")
            if number == 10:
                until(lambda: "line 6\n" in tried.log)
                api.break_streams()
        api.log_limit = 0
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
    lines = [line for line in tried.log.splitlines() if line.startswith("[rank 0] line")]
    assert lines == [f"[rank 0] line {number}" for number in range(20)]


def test_a_log_that_may_not_be_read_is_told_and_the_training_goes_on(api: ClusterApi, tried: Tried) -> None:
    api.fault("GET", "/log", 403, times=99)
    with Played(api, lambda job: to_the_end(tried, job)):
        assert tried.train().step == 2
    assert "no log of pod drtune-4b1c-master-0: " in tried.log

"""The launcher: success, restarts, being stopped; a test plays the training operator.

In none of these a job is made twice, or left behind by a launcher that was not told to leave it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.train.follow import TrainingFailedError
from components.train.job import job_name, to_job
from components.train.launch import ending_by_sigterm
from drtune.contracts import CONFIG, PromptSet
from tests.cluster_api import ClusterApi, Fault, now
from tests.launches import WEIGHTS, WORKFLOW, Tried, succeeds, to_the_end, trains
from tests.operator import JOBS, Played, PlayedJob, until

# --- it goes well -----------------------------------------------------------------------------------------------------


def test_a_training_that_succeeds_gives_its_model_and_leaves_no_job(api: ClusterApi, tried: Tried) -> None:
    seen: dict[str, object] = {}

    def script(job: PlayedJob) -> None:
        seen.update(api.objects[JOBS, job.name])
        assert tried.storage.read(f"request/{CONFIG}").decode() == tried.config.to_yaml()
        assert PromptSet.read(tried.storage.read("request/prompts/manifest.json"), "", fix="")
        trains(job)
        api.write(job.runs(1), "step 1", "step 2")
        until(lambda: ": running" in tried.log)
        succeeds(tried, job)

    digest = tried.launch.spec.sha256()
    with Played(api, script):
        made = tried.train()
    assert (made.step, made.cluster_sha256) == (2, digest)
    assert (tried.out / "adapter" / "pytorch_lora_weights.safetensors").read_bytes() == WEIGHTS
    assert tried.left() == []
    assert seen["metadata"]["ownerReferences"] == [WORKFLOW]  # type: ignore[index]
    lines = tried.log.splitlines()
    assert [line for line in lines if line.startswith("[rank 1] ")] == [
        "[rank 1] step 1",
        "[rank 1] step 2",
        "[rank 1] the end of 1",
    ]
    assert "[rank 0] the end of 0" in lines
    assert "training job drtune-4b1c: running" in lines


def test_two_runs_at_once_do_not_mix(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    both = {job_name(run_id): Tried(api, tmp_path, some_prompts, run_id) for run_id in ("one", "two")}

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
    """The first try was killed: it could not delete anything. The job has not gone with its pod, and fills a quota."""
    api.faults.append(Fault("POST", "pytorchjobs", 403, times=99, message="exceeded quota: jobs"))
    job = api.put(JOBS, to_job(tried.launch.spec, tried.launch.name, "s3://runs", [WORKFLOW]))
    uid = job["metadata"]["uid"]
    played = PlayedJob(api, job)
    trains(played)
    api.write(played.runs(0), "written before the first launcher was killed")

    def script(job: PlayedJob) -> None:
        until(lambda: "adopted" in tried.log)
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
    assert "[rank 0] written before the first launcher was killed" in tried.log
    assert {change[3]["metadata"]["uid"] for change in api.changes if change[1] == JOBS} == {uid}  # and no other job
    assert tried.left() == []


def test_an_adopted_job_that_is_older_than_the_time_to_start_may_start_a_node_again(
    api: ClusterApi, tried: Tried
) -> None:
    tried.launch.spec = tried.launch.spec.model_copy(update={"start_timeout_seconds": 60})
    api.clock = lambda: "2026-01-01T00:00:00Z"
    api.put(JOBS, to_job(tried.launch.spec, tried.launch.name, "s3://runs", [WORKFLOW]))

    def script(job: PlayedJob) -> None:
        until(lambda: "adopted from an earlier try" in tried.log)
        trains(job)
        succeeds(tried, job)

    with Played(api, script):
        tried.train()
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


def test_the_pods_of_a_job_that_an_earlier_try_deleted_are_waited_for(api: ClusterApi, tried: Tried) -> None:
    """They may still store what the new ones would fetch."""
    job = api.put(JOBS, to_job(tried.launch.spec, tried.launch.name, "s3://runs"))
    saving = PlayedJob(api, job).runs(1)
    api.collects = False
    api.remove(JOBS, tried.launch.name)

    def comes(job: PlayedJob) -> None:
        assert saving not in tried.left()
        to_the_end(tried, job)

    def saves() -> None:
        assert tried.left() == [saving]
        api.collects = True

    with Played(api, comes):
        threading.Timer(0.5, saves).start()
        tried.train()
    assert tried.left() == []


def test_a_job_that_failed_while_nobody_followed_it_makes_room_for_a_new_one(api: ClusterApi, tried: Tried) -> None:
    """The first try was killed, its job failed, and its checkpoints are kept."""
    old = PlayedJob(api, api.put(JOBS, to_job(tried.launch.spec, tried.launch.name, "s3://runs")))
    old.ends(1, 1)
    old.says("Failed", "1 Worker replica(s) failed")
    api.collects = False
    tried.storage.write("model/checkpoints/1/state", b"update 1")
    kept: list[bytes] = []

    def goes(_job: PlayedJob) -> None:
        until(lambda: api.counted("DELETE", tried.launch.name))
        time.sleep(0.3)
        assert tried.left() == [old.pod_name(1)]  # the new one waits until that is gone
        api.collects = True

    def comes(job: PlayedJob) -> None:
        assert job.uid != old.uid
        kept.append(tried.storage.read("model/checkpoints/1/state"))
        to_the_end(tried, job)

    with Played(api, goes, comes):
        tried.train()
    assert kept == [b"update 1"]
    assert (
        "training job drtune-4b1c: failed while no launcher followed it (1 Worker replica(s) failed); it is deleted, "
        "and a new one goes on from its newest checkpoint\n"
    ) in tried.log
    assert "adopted" not in tried.log
    assert tried.left() == []


# --- it is restarted --------------------------------------------------------------------------------------------------


def test_an_evicted_node_is_a_restart_and_not_a_failure(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        trains(job)
        evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}
        job.ends(1, 143, "saved update 7", **evicted)
        job.ends(0, 143)
        job.says("Restarting", "2 replica(s) failed")
        until(lambda: "restarting" in tried.log and "evicted: The node" in tried.log and "saved update 7" in tried.log)
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


# --- it is stopped ----------------------------------------------------------------------------------------------------


def test_a_launcher_that_is_stopped_leaves_its_job_to_the_next_which_adopts_it_still_running(
    api: ClusterApi, tried: Tried, tmp_path: Path, some_prompts: Path
) -> None:
    """A drained machine, a full disk and a cancelled run all send the same signal."""

    def script(job: PlayedJob) -> None:
        trains(job)
        until(lambda: ": running" in tried.log)
        os.kill(os.getpid(), signal.SIGTERM)

    with Played(api, script), pytest.raises(SystemExit) as ended, ending_by_sigterm(tried.cancelled):
        tried.train()
    assert ended.value.code == 143
    assert api.counted("DELETE") == 0
    assert "this step is stopped, and the job goes on: the step's next try adopts it" in tried.log.splitlines()[-1]
    uid = api.of("pytorchjobs")[0]["metadata"]["uid"]
    again = Tried(api, tmp_path, some_prompts)

    def goes_on(job: PlayedJob) -> None:
        assert job.uid == uid
        until(lambda: ": running" in again.log)
        succeeds(again, job)

    with Played(api, goes_on):
        again.train()
    assert "adopted from an earlier try" in again.log
    assert again.left() == []


class Finalized:
    """Something to be finalized."""


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_comes_while_a_finalizer_runs_is_not_lost(
    api: ClusterApi, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(text: str) -> None:
        if text.endswith(": running"):
            finalized = Finalized()
            weakref.finalize(finalized, os.kill, os.getpid(), signal.SIGTERM)  # what it raises, Python only tells

    monkeypatch.setattr(tried.launch.log, "say", say)
    with Played(api, trains), pytest.raises(SystemExit) as ended, ending_by_sigterm(tried.cancelled):
        tried.train()
    assert ended.value.code == 143

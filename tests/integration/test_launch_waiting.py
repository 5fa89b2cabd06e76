"""The launcher while its job waits: for a place, an image, a queue, or its time to end; a test plays the operator."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.train import follow
from components.train.follow import TrainingFailedError
from drtune.errors import UserError
from tests.cluster_api import ClusterApi
from tests.launches import Tried, to_the_end, trains
from tests.operator import EVENTS, JOBS, Played, PlayedJob, until


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/5 nodes: 5 Insufficient gpu."}]},
            "is pending, cannot be scheduled: 0/5 nodes: 5 Insufficient gpu.",
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
    api: ClusterApi, tmp_path: Path, some_prompts: Path, status: dict[str, object], told: str
) -> None:
    tried = Tried(api, tmp_path, some_prompts, start_timeout_seconds=3)

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


def test_a_pod_whose_image_stays_away_ends_the_step_long_before_its_place_is_given_up(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    tried = Tried(api, tmp_path, some_prompts, pull_timeout_seconds=2)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}

    def script(job: PlayedJob) -> None:
        job.pod(
            0, phase="Pending", containerStatuses=[{"name": "pytorch", "image": "x:1", "state": {"waiting": waiting}}]
        )

    with Played(api, script), pytest.raises(TrainingFailedError, match=r"without what it needs .*\n.*no such image"):
        tried.train()
    assert tried.left() == []


def test_a_job_in_a_queue_is_told_from_one_that_trains(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    tried = Tried(api, tmp_path, some_prompts, queue="nightly")

    def script(job: PlayedJob) -> None:
        labels = api.objects[JOBS, job.name]["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "nightly"
        job.says("Suspended", "no quota left")
        until(lambda: "suspended" in tried.log)
        to_the_end(tried, job)

    with Played(api, script):
        tried.train()
    assert "suspended, waits for queue nightly (no quota left)" in tried.log


@pytest.mark.parametrize(
    ("backend", "made", "about", "reason"),
    [
        # training-operator v1.9 pkg/controller.v1/control/pod_control.go createPods
        ("pytorchjob", 0, "", "FailedCreatePod"),
        ("pytorchjob", 1, "", "FailedCreatePod"),
        # kubernetes v1.34 pkg/controller/controller_utils.go createPods, of the Job of the JobSet
        ("trainjob", 0, "-node-0", "FailedCreate"),
    ],
)
def test_a_job_that_lacks_pods_is_explained_by_the_events_of_what_makes_them(
    api: ClusterApi,
    tmp_path: Path,
    some_prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    made: int,
    about: str,
    reason: str,
) -> None:
    monkeypatch.setattr(follow, "EVENTS_AFTER_SECONDS", 1.0)
    tried = Tried(api, tmp_path, some_prompts, backend=backend, start_timeout_seconds=3)
    told = {"type": "Warning", "reason": reason, "message": 'Error creating: pods "x" is forbidden: exceeded quota: y'}
    api.put(EVENTS, {"metadata": {"name": "event"}, "involvedObject": {"name": f"{tried.launch.name}{about}"}, **told})

    def script(job: PlayedJob) -> None:
        for node in range(made):
            job.pod(node, phase="Pending")

    with Played(api, script), pytest.raises(TrainingFailedError, match="did not start in") as late:
        tried.train()
    why = f'lacks pods: {reason}: Error creating: pods "x" is forbidden: exceeded quota: y'
    assert f"training job {tried.launch.name} {why}\n" in tried.log
    assert f"\n  it {why}" in str(late.value)
    assert "is its operator running" not in tried.log


def test_the_deadline_of_a_running_job_ends_it(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    tried = Tried(api, tmp_path, some_prompts, run_timeout_seconds=1)

    def script(job: PlayedJob) -> None:
        # The operator counts from the creation of the job, so it is told both.
        assert api.objects[JOBS, job.name]["spec"]["runPolicy"]["activeDeadlineSeconds"] == 60 + 1
        trains(job)

    with Played(api, script), pytest.raises(TrainingFailedError, match="did not end in run_timeout_seconds=1"):
        tried.train()
    assert tried.left() == []


def test_a_batch_that_the_processes_cannot_share_asks_for_nothing(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    tried = Tried(api, tmp_path, some_prompts, nodes=3)
    with pytest.raises(UserError, match="batch_size=8: cannot be shared evenly by the 3 processes of 3 nodes"):
        tried.train()
    assert api.requests == []


@pytest.mark.slow
def test_a_job_that_its_queue_suspends_has_all_of_its_time_again(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    tried = Tried(api, tmp_path, some_prompts, queue="nightly", run_timeout_seconds=2)

    def script(job: PlayedJob) -> None:
        trains(job)
        until(lambda: "running" in tried.log)
        for node in range(2):
            job.is_restarted(node)
        job.says("Suspended", "preempted")
        until(lambda: "suspended" in tried.log)
        time.sleep(2.5)  # longer than it may run
        assert tried.left() != []
        job.stops_saying("Suspended")
        to_the_end(tried, job)

    with Played(api, script):
        tried.train()


def test_a_job_that_one_node_cannot_join_has_not_started(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    tried = Tried(api, tmp_path, some_prompts, start_timeout_seconds=2)

    def script(job: PlayedJob) -> None:
        job.says("Created")
        job.runs(0)
        job.pod(1, phase="Pending")
        job.says("Running")  # which the operator says of one pod of two

    with Played(api, script), pytest.raises(TrainingFailedError, match=r"start_timeout_seconds=2 \(pending\)"):
        tried.train()
    assert "running" not in tried.log

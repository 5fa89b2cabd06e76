"""The launcher on what a real cluster said: each recorded watch is played to it, and what it says and returns is held.

The recordings are those of tests/recordings/kubeflow; `replay` plays one (tests/operator.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.train.follow import TrainingFailedError
from drtune.errors import UserError
from tests.cluster_api import ClusterApi
from tests.launches import Tried
from tests.operator import RECORDINGS, Played, PlayedJob, replay

WORDS = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "


def tried_as(recording: str, api: ClusterApi, root: Path, prompts: Path, **settings: object) -> Tried:
    """A launcher whose job has the name of the recorded one."""
    first = (RECORDINGS / f"{recording}.jsonl").read_text(encoding="utf-8").partition("\n")[0]
    name = json.loads(first)["object"]["metadata"]["name"]
    kind = {"backend": recording.partition("-")[0]}
    return Tried(api, root, prompts, name.removeprefix("drtune-"), **kind, **settings)


def said(tried: Tried) -> list[str]:
    """What the launcher says of the job, and of pods that did not do as they should."""
    lines = [line.replace(f"training job {tried.launch.name}: ", "") for line in tried.log.splitlines()]
    told = ("created", "pending", "running", "restarting", "succeeded", "failed")
    return [line for line in lines if line.startswith(told) or " was ended by " in line or " is pending" in line]


def play(tried: Tried, recording: str, **writes: list[str]) -> Played:
    named = {end.replace("_", "-"): lines for end, lines in writes.items()}

    def script(job: PlayedJob) -> None:
        tried.answers()
        replay(recording, job, named)

    return Played(tried.api, script)


def test_an_elastic_job_that_loses_a_pod_goes_on_and_succeeds(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    recording = "pytorchjob-elastic-worker-deleted-then-succeeds"
    tried = tried_as(recording, api, tmp_path, some_prompts, elastic={"min_nodes": 2})
    with play(tried, recording):
        assert tried.train().step == 2
    created, *lines = said(tried)
    assert created.startswith("created, for what is asked at")
    assert lines.count("[node 1] was ended by SIGTERM") == 2
    assert lines.count("[node 0] was ended by SIGTERM") == 1
    phases = [line for line in lines if not line.startswith("[")]
    assert [phase.partition(" ")[0] for phase in phases] == [
        "pending,", "running", "restarting", "running", "restarting", "running", "succeeded",
    ]  # fmt: skip
    assert phases[2].startswith("restarting from its newest checkpoint, not failed (PyTorchJob ")
    assert tried.left() == []


def test_a_job_with_a_master_and_a_worker_succeeds(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    recording = "pytorchjob-master-and-worker-succeeds"
    tried = tried_as(recording, api, tmp_path, some_prompts)
    with play(tried, recording):
        tried.train()
    phases = [line.partition(" ")[0] for line in said(tried)]
    assert phases == ["created,", "pending,", "running", "succeeded"]


def test_a_train_job_that_loses_a_pod_goes_on_and_succeeds(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    recording = "trainjob-pod-deleted-then-succeeds"
    tried = tried_as(recording, api, tmp_path, some_prompts)
    with play(tried, recording):
        tried.train()
    lines = said(tried)
    assert [line.partition(" ")[0] for line in lines if not line.startswith("[")] == [
        "created,", "pending,", "running", "restarting", "running", "succeeded",
    ]  # fmt: skip
    assert sorted(line for line in lines if line.startswith("[")) == [
        "[rank 0] was ended by SIGTERM",
        "[rank 1] was ended by SIGTERM",
    ]
    assert tried.left() == []


@pytest.mark.slow
def test_a_mistake_of_the_user_ends_a_train_job_at_once_even_where_its_runtime_starts_it_again(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    recording = "trainjob-mistake-of-the-user-then-cancelled"
    tried = tried_as(recording, api, tmp_path, some_prompts)
    error = "error: rewards.nonesuch: no such reward"
    with (
        play(tried, recording, ds7kh=[error, "rank 0 ended with exit code 2"]),
        pytest.raises(UserError, match=r"^rewards.nonesuch: no such reward$"),
    ):
        tried.train()
    assert (tried.left(), tried.made_too_late()) == ([], [])
    assert tried.log.count(error) == 1
    lines = tried.log.splitlines()
    assert lines.index("[rank 0] rank 0 ended with exit code 2") < lines.index("[rank 0] ended with exit code 2")
    assert "restarting" not in tried.log


def test_a_job_whose_processes_torchrun_starts_again_in_place_says_no_more_than_that_it_runs(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    """Nothing of it is seen from outside, which is why nodes are told not to do it."""
    recording = "pytorchjob-elastic-mistake-of-the-user-then-cancelled"
    tried = tried_as(recording, api, tmp_path, some_prompts, elastic={"min_nodes": 2}, run_timeout_seconds=1)
    with play(tried, recording), pytest.raises(TrainingFailedError, match="did not end in run_timeout_seconds=1"):
        tried.train()
    assert [line.partition(" ")[0] for line in said(tried)] == ["created,", "pending,", "running"]
    assert (tried.left(), tried.made_too_late()) == ([], [])


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_a_job_without_a_place_is_pending_with_the_words_of_the_scheduler_and_what_to_do(
    api: ClusterApi, tmp_path: Path, some_prompts: Path, kind: str
) -> None:
    recording = f"{kind}-unschedulable-then-cancelled"
    limits = {"start_timeout_seconds": 4, "pending_patience_seconds": 1}
    tried = tried_as(recording, api, tmp_path, some_prompts, **limits)
    with (
        play(tried, recording),
        pytest.raises(TrainingFailedError, match=r"did not start in start_timeout_seconds=4 \(pending\)") as late,
    ):
        tried.train()
    lines = said(tried)
    assert [line.partition(" ")[0] for line in lines if not line.startswith("[")] == ["created,", "pending,"]
    pending = [line for line in lines if line.startswith("[")]
    assert len(pending) == 2
    assert all(f"is pending, cannot be scheduled: {WORDS}" in line for line in pending)
    assert "1 Insufficient cpu" in str(late.value)
    advice = [line for line in tried.log.splitlines() if "no room for it in pending_patience_seconds=1" in line]
    assert len(advice) == 1
    assert "lower cpu, memory, gpus_per_node or scratch" in advice[0]
    assert (tried.left(), tried.made_too_late()) == ([], [])

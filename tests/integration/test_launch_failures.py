"""The launcher with trainings that fail and an API server that misbehaves; a test plays the training operator.

In none of these a failed training is green, a job is made twice, or a job is left behind.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.train.cluster import ClusterError
from components.train.follow import TrainingFailedError
from drtune.errors import UserError
from tests.cluster_api import ClusterApi, Fault
from tests.launches import Tried, succeeds, to_the_end, trains
from tests.operator import JOBS, Played, PlayedJob, until

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


@pytest.mark.slow
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
        (lambda tried: tried.answers(claimed=b"others"), "safetensors: is not the one that the model's manifest names"),
        (lambda tried: tried.answers() or tried.storage.delete("model/config.yaml"), "config.yaml: cannot be read"),
        (
            lambda tried: tried.answers() or tried.storage.write("model/config.yaml", b"steps: 3"),
            "config.yaml: is not the one that",
        ),
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
        until(lambda: JOBS in api.told)  # "running" may have been in the list already
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
    api.fault("GET", "pytorchjobs?fieldSelector", 500, times=10**6)
    with Played(api, trains), pytest.raises(ClusterError, match="did not do it in 2 s: 500"):
        tried.train()
    assert tried.left() == []


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (401, "Unauthorized", "does not know us"),
        # apiserver/pkg/endpoints/handlers/responsewriters/errors.go, and then what an admission plugin says
        (403, 'pytorchjobs is forbidden: User "me" cannot create resource "pytorchjobs"', "grant it to the launcher's"),
        (403, "pytorchjobs is forbidden: exceeded quota: jobs", "exceeded quota: jobs; .* raised if that is a quota"),
        (404, "not found", "has no PyTorchJob .* install its operator"),
        (422, "invalid", "refuses the training job"),
    ],
)
def test_what_the_server_refuses_is_told_in_one_line(
    api: ClusterApi, tried: Tried, status: int, said: str, message: str
) -> None:
    api.faults.append(Fault("POST", "pytorchjobs", status, times=1, message=said))
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


def test_a_job_whose_end_is_known_before_its_pods_has_their_logs_shown(api: ClusterApi, tried: Tried) -> None:
    def script(job: PlayedJob) -> None:
        until(lambda: any("/pods?" in asked and "watch=true" in asked for _, asked in api.requests))
        api.fault("GET", "/pods", 503, times=1)  # that of the pods goes on later than that of the job
        api.break_streams()
        to_the_end(tried, job)

    with Played(api, script):
        tried.train()
    assert "[rank 0] the end of 0\n" in tried.log
    assert "[rank 1] the end of 1\n" in tried.log


def test_a_log_that_may_not_be_read_is_told_and_the_training_goes_on(api: ClusterApi, tried: Tried) -> None:
    api.fault("GET", "/log", 403, times=99)
    with Played(api, lambda job: to_the_end(tried, job)):
        assert tried.train().step == 2
    assert "no log of pod drtune-4b1c-master-0: " in tried.log

"""Waiting for a run: what is told of it, and what its end is called."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from kfp_server_api import ApiException

from pipelines.cli.options import TUNE
from pipelines.server.client import connected
from pipelines.server.follow import follow
from pipelines.server.outcome import Outcome
from pipelines.server.package import Package
from pipelines.server.runs import Job, submit
from tests.kfp_api import KfpServer
from tests.kfp_nodes import WORKFLOW, Look, executor_of, node_id
from tests.server_calls import COMMITTED, FAILED, LOG, TRAINING, fine, refused
from tests.server_calls import server as server

ROOT = Path(__file__).parents[2]
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def without_times(said: list[str]) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in said]


def test_waiting_tells_of_each_step_once_and_ends_with_what_was_published(server: KfpServer) -> None:
    done = dict.fromkeys(["prepare-prompts", "train", "decide", "publish"], "SUCCEEDED")
    server.looks = [Look("PENDING"), TRAINING, TRAINING, Look("SUCCEEDED", done)]
    server.logs[executor_of("publish")] = "published as sdxl-hps v3 at s3://models/drtune/sdxl-hps/files/5d1c\n"
    said = without_times(fine(server, "submit", "--wait", "-r", "mine"))
    [run] = server.runs
    assert said[4:] == [
        "prepare-prompts succeeded after 1 min",
        "train",
        "train succeeded after 3 min",
        "decide succeeded after 3 min",
        "publish succeeded after 3 min",
        f"report (in step decide): {server.url}/#/runs/details/{run}",
        "run mine: published as sdxl-hps v3 at s3://models/drtune/sdxl-hps/files/5d1c (3 min)",
    ]


PROGRAM = """
Traceback (most recent call last):
  File "/app/components/process.py", line 60, in run_process
RuntimeError: torchrun ended with exit code 1; it wrote last:
  step 3 of 9
  out of memory
I0105 03:04:00.000000 main.go:57] failed to execute component: exit status 1
time="2026-01-05T03:04:00Z" level=info msg="sub-process exited" argo=true error="<nil>"
Error: exit status 1
"""
PENDING = Look("RUNNING", {"evaluate": "PENDING"})


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (Look("CANCELED", {"train": "CANCELED"}), "cancelled in train"),
        (Look("SKIPPED"), "skipped \\(0 s\\); see http"),
        (FAILED, f"failed in train: it left no log; see http.*/#/runs/details/{UUID}$"),
        (
            Look("FAILED", {"train": None, "train-driver": "FAILED"}),
            "failed in train: Kubeflow could not start it: its",
        ),
    ],
    ids=lambda value: value.state.lower() if isinstance(value, Look) else "",
)
def test_waiting_ends_with_1_unless_the_run_succeeded(server: KfpServer, look: Look, message: str) -> None:
    server.looks = [look]
    assert re.match(f"run mine: {message}", refused(server, "submit", "--wait", "-r", "mine", code=1))


@pytest.mark.parametrize(
    ("log", "argo", "reason"),
    [
        (LOG, "main: Error (exit code 1)", "batch_size=3: cannot be shared by processes=2; make it a multiple"),
        (f"{LOG}error: config: no such file\n", "", "config: no such file"),
        (f"error: not this one\n{LOG}", "", "batch_size=3: cannot be shared by processes=2; make it a multiple"),
        (
            "error: /minio/mlpipeline/v2/artifacts/tune/a: no manifest\n",
            "",
            "minio://mlpipeline/v2/artifacts/tune/a: no",
        ),
        ("step 3 of 9\n", "main: OOMKilled (exit code 137)", "OOMKilled (exit code 137)"),
        (PROGRAM, "main: Error (exit code 1)", "torchrun ended with exit code 1; it wrote last: out of memory"),
        ("I0105 03:04:00.000000 main.go:57] failed to execute\nError: exit status 1\n", "", "failed to execute"),
    ],
)
def test_the_reason_of_a_failed_step_is_its_own_or_that_of_argo(
    server: KfpServer, log: str, argo: str, reason: str
) -> None:
    server.looks = [TRAINING, FAILED]
    server.logs[executor_of("train")] = log
    server.words = {executor_of("train"): argo}
    assert refused(server, "submit", "--wait", "-r", "mine", code=1).startswith(f"run mine: failed in train: {reason}")


def test_a_step_that_took_longer_than_it_may_is_told_as_such(server: KfpServer) -> None:
    server.looks = [TRAINING, FAILED]
    server.logs[executor_of("train")] = LOG
    server.words = {executor_of("train"): "Pod was active on the node longer than the specified deadline"}
    line = refused(server, "submit", "--wait", "-r", "mine", code=1)
    assert line == "run mine: out of time in train: it took longer than a step of its kind may"


def test_a_run_that_takes_too_long_goes_on(server: KfpServer) -> None:
    server.looks = [TRAINING]
    line = refused(server, "submit", "--wait", "--timeout", "1", "-r", "mine", code=1)
    assert re.match(f"run mine: not over after 1 s; it goes on; `drtune-pipeline status {UUID} --wait` waits", line)
    assert not any("terminate" in request for request in server.requests)


def test_a_step_that_kubeflow_could_not_start_has_the_words_of_its_driver(server: KfpServer) -> None:
    server.looks = [Look("FAILED", {"train": None, "train-driver": "FAILED"})]
    driver = node_id(f"{WORKFLOW}(0).root(0).exit-handler-1(0).train-driver(0)")
    server.logs[driver] = "F0105 03:04:00.000000 main.go:80] KFP driver: driver.Container: no such input\n"
    line = refused(server, "submit", "--wait", "-r", "mine", code=1)
    told = "KFP driver: driver.Container: no such input"
    assert line == f"run mine: failed in train: Kubeflow could not start it: {told}"


UNSCHEDULABLE = "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def test_a_pod_that_waits_is_told_of_with_the_words_of_the_scheduler(
    server: KfpServer, waiting: Callable[..., Outcome]
) -> None:
    server.looks = [PENDING] * 9 + [Look("SUCCEEDED", {"evaluate": "SUCCEEDED"})]
    server.words = {executor_of("evaluate"): UNSCHEDULABLE, node_id("other(0)"): "no"}
    said: list[str] = []
    assert waiting(say=said.append, pending_seconds=0.02).is_well
    first, second, last = without_times(said)
    assert first == f"evaluate pending: {UNSCHEDULABLE}"
    told = UNSCHEDULABLE.rstrip(".")
    assert second.startswith(f"evaluate has been pending for 0 s: {told}; give the cluster what its pod asks")
    assert last.startswith("evaluate succeeded")


def test_a_pod_that_only_starts_is_no_news(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    server.looks = [PENDING] * 3 + [Look("SUCCEEDED", {"evaluate": "SUCCEEDED"})]
    server.words = {executor_of("evaluate"): "ContainerCreating"}
    said: list[str] = []
    assert waiting(say=said.append).is_well
    assert len(said) == 1


def test_status_shows_why_a_pod_waits(server: KfpServer) -> None:
    server.looks = [PENDING]
    server.words = {executor_of("evaluate"): UNSCHEDULABLE}
    fine(server, "submit", "-r", "mine")
    assert f"  evaluate pending: {UNSCHEDULABLE}" in fine(server, "status", "mine")
    server.refuse("v1beta1", 404, "Not Found")
    assert "  evaluate pending" in fine(server, "status", "mine")


@pytest.fixture
def waiting(server: KfpServer) -> Iterator[Callable[..., Outcome]]:
    """Follow a run that was just started; takes `say` and the times of `follow`."""
    with connected(server.url, "kubeflow", None) as client:
        package = Package.read(TUNE)
        run = submit(client, Job(package, {}, "tried"), "mine", print)
        yield partial(follow, client, run, package, pending_seconds=600.0, pause_seconds=0.01)


def test_a_server_that_is_away_for_a_while_is_asked_again(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        server.misbehave.clear()
        said.append(line)

    server.refuse("GET .*/runs/", 503, "upstream connect error")
    assert waiting(say=say).state == "SUCCEEDED"
    assert len(said) == 1
    assert "the server failed with 503: upstream connect error; try again later (asking again for 10 min)" in said[0]


@pytest.mark.parametrize(("status", "seconds"), [(503, 0.2), (429, 0.2), (401, 600.0), (404, 600.0)])
def test_a_server_that_stays_away_or_refuses_ends_the_waiting(
    server: KfpServer, waiting: Callable[..., Outcome], status: int, seconds: float
) -> None:
    server.refuse("GET .*/runs/", status, "no")
    with pytest.raises(ApiException) as raised:
        waiting(say=print, patience_seconds=seconds)
    assert raised.value.status == status


def test_a_server_that_is_away_when_time_is_up_does_not_make_the_waiting_longer(
    server: KfpServer, waiting: Callable[..., Outcome]
) -> None:
    server.refuse("GET .*/runs/", 503, "no")
    outcome = waiting(say=print, timeout_seconds=0.8)
    assert (outcome.state, outcome.text.split(";")[0]) == ("TIMEOUT", "not over after 1 s")


def test_each_look_comes_later_than_the_one_before(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    server.looks = [TRAINING]
    assert waiting(say=print, timeout_seconds=1.0).state == "TIMEOUT"
    looks = sum(request.startswith("GET") and "/runs/" in request for request in server.requests)
    # 0.01 s times 1, 1.2, 1.44, ... is a second after 17, with a look before each; else there would be a hundred.
    assert looks <= 18


def test_of_several_runs_all_together_are_waited_for(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    server.looks = [Look("RUNNING", {"train": "RUNNING"})]
    outcome = waiting(say=print, timeout_seconds=50.0, since=time.monotonic() - 100)
    assert (outcome.state, outcome.text.split(";")[0]) == ("TIMEOUT", "not over after 1 min 40 s")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_who_stops_waiting_is_told_that_the_run_goes_on(
    server: KfpServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    server.looks = [TRAINING]
    command = [sys.executable, "-m", "pipelines.cli.main", "submit", "--wait"]
    environment = os.environ | server.environment | {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"} | COMMITTED
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("train\n"):
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    [identity] = server.runs
    assert process.returncode == code
    assert errors == (
        f"no longer waiting for run {identity}, which goes on; `drtune-pipeline status {identity} --wait` waits again, "
        f"`drtune-pipeline cancel {identity}` ends it\n"
    )
    assert not any("terminate" in request for request in server.requests)

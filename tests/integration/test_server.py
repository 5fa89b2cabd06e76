"""The commands of drtune-pipeline against a server, as a person types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from kfp_server_api import ApiException

from pipelines.cli.main import PACKAGE
from pipelines.server.client import connected
from pipelines.server.follow import follow
from pipelines.server.outcome import Outcome
from pipelines.server.package import Package
from pipelines.server.runs import Job, submit
from tests.kfp_api import KfpServer, Look, executor_of, node_id
from tests.server_calls import COMMITTED, call, fine, refused
from tests.server_calls import server as server

ROOT = Path(__file__).parents[2]
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TRAINING = Look("RUNNING", {"prepare-prompts": "SUCCEEDED", "train": "RUNNING"})
FAILED = Look("FAILED", {"prepare-prompts": "SUCCEEDED", "train": "FAILED"})
LOG = """
Loading the base
Traceback (most recent call last):
  File "/app/components/train/run.py", line 30, in train
    run_process(command)
drtune.errors.UserError: batch_size=3: cannot be shared by processes=2; make it a multiple
I0105 03:04:00.000000 main.go:57] failed to execute component: exit status 1
"""


# Upload


def test_an_upload_is_a_version_named_after_the_code(server: KfpServer) -> None:
    result = call(server, "upload", str(PACKAGE), DRTUNE_CODE_REVISION="4a1b2c9" * 5)
    [version] = server.versions.values()
    [pipeline] = server.pipelines.values()
    name = f"{metadata.version('drtune')}-4a1b2c9"  # no commit of that name is here, and so no day
    assert (pipeline["display_name"], version["display_name"]) == ("tune", name)
    spec, platform = yaml.safe_load_all(PACKAGE.read_text(encoding="utf-8"))
    assert version["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
    assert result.stdout.splitlines() == [
        f"pipeline tune version {name}: uploaded, {version['pipeline_version_id']}",
        f"{server.endpoint}/#/pipelines/details/{pipeline['pipeline_id']}/version/{version['pipeline_version_id']}",
    ]


def test_the_name_of_a_version_tells_the_day_of_its_commit(server: KfpServer) -> None:
    commit, day = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for command in (["rev-parse", "HEAD"], ["show", "-s", "--format=%cd", "--date=format:%Y%m%d", "HEAD"])
    )
    call(server, "upload", str(PACKAGE), DRTUNE_CODE_REVISION=commit)
    [version] = server.versions.values()
    assert version["display_name"] == f"{metadata.version('drtune')}-{day}-{commit[:7]}"


def test_files_that_differ_from_their_commit_are_no_version(server: KfpServer) -> None:
    dirty = {"DRTUNE_CODE_REVISION": "4a1b2c9" * 5 + "-dirty"}
    line = "version: files differ from commit 4a1b2c9; commit them, or give --version"
    assert refused(server, "upload", **dirty) == line
    said = call(server, "submit", **dirty).stdout.splitlines()
    assert said[0] == f"({line}; sent along --inline)"
    assert "pipeline_spec" in next(iter(server.runs.values()))
    assert not server.versions


def test_a_server_that_is_too_old_is_told_of_before_anything_is_sent(server: KfpServer) -> None:
    for command in (["upload", "--version", "v1"], ["submit"], ["schedule", "nightly", "--cron", "0 3 * * *"]):
        server.tag_name = "2.15.0"
        assert refused(server, *command).endswith(
            "is Kubeflow Pipelines 2.15.0, which refuses the steps' security context; 2.16 is the oldest that works"
        )
        assert not any(request.startswith("POST") for request in server.requests)
    for tag in ("2.16.0", "unknown"):
        server.tag_name = tag
        fine(server, "submit")


def test_an_upload_can_be_repeated_and_a_version_never_changes(server: KfpServer, tmp_path: Path) -> None:
    fine(server, "upload", "--version", "v1", str(PACKAGE))
    assert "there already" in fine(server, "upload", "--version", "v1", str(PACKAGE))[0]
    other = tmp_path / "other.yaml"
    other.write_text(Package.read(PACKAGE).without_cache().text(), encoding="utf-8")
    assert refused(server, "upload", "--version", "v1", str(other)).startswith(
        "version v1 of pipeline tune: is there already with another content"
    )
    fine(server, "upload", "--version", "v2", str(other))
    assert [version["display_name"] for version in server.versions.values()] == ["v1", "v2"]
    assert len(server.pipelines) == 1


def test_all_pipelines_are_uploaded_by_default(server: KfpServer) -> None:
    fine(server, "upload", "--version", "v1")
    names = {Package.read(path).name for path in PACKAGE.parent.glob("*.yaml")}
    assert {pipeline["display_name"] for pipeline in server.pipelines.values()} == names


def test_a_pipeline_that_cannot_be_seen_but_has_the_name_is_a_clash(server: KfpServer) -> None:
    server.refuse("POST .*/pipelines$", 409, "The name tune already exists")
    assert "the name is taken: The name tune already exists" in refused(server, "upload", "--version", "v1")


# Submit


def test_a_run_gets_its_parameters_as_they_were_given(server: KfpServer) -> None:
    texts = ["steps=20", "batch_size=4"]
    said = fine(
        server, "submit", "-e", "tried", "-r", "mine", "prompts=data/sdxl.jsonl", f"overrides={json.dumps(texts)}"
    )
    [run] = server.runs.values()
    [experiment] = server.experiments.values()
    assert run["runtime_config"]["parameters"] == {"prompts": "data/sdxl.jsonl", "overrides": texts}
    assert (run["display_name"], run["experiment_id"]) == ("mine", experiment["experiment_id"])
    assert experiment["display_name"] == "tried"
    assert said == [
        f"pipeline tune version {metadata.version('drtune')}-4a1b2c9: uploaded",
        "experiment tried: made, since it was not there",
        f"run mine: {run['run_id']}",
        f"{server.endpoint}/#/runs/details/{run['run_id']}",
    ]


def test_an_experiment_that_is_there_is_used_unless_it_is_archived(server: KfpServer) -> None:
    fine(server, "submit")
    assert re.match(r"run tune miniature-symmetry \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: ", fine(server, "submit")[1])
    [experiment] = server.experiments.values()
    assert len(server.runs) == 2
    experiment["storage_state"] = "ARCHIVED"
    assert refused(server, "submit").startswith("experiment drtune: is archived; restore it")


@pytest.mark.parametrize(
    "wrong",
    [
        "promptz=x",
        "overrides=3",
        'overrides=["stepz=20"]',
        'cluster_overrides=["nodes=4"]',
        "prompts",
    ],
)
def test_a_mistake_is_found_before_the_server_is_asked(server: KfpServer, wrong: str) -> None:
    refused(server, "submit", wrong)
    assert server.requests == []


def test_without_cache_no_step_is_taken_from_before(server: KfpServer) -> None:
    fine(server, "submit", "--inline")
    fine(server, "submit", "--no-cache")
    with_cache, without = (json.dumps(run["pipeline_spec"]) for run in server.runs.values())
    assert "enableCache" in with_cache
    assert "enableCache" not in without


def test_a_run_is_one_of_the_version_of_the_code(server: KfpServer, tmp_path: Path) -> None:
    for _ in range(2):
        fine(server, "submit")
    [version] = server.versions
    for run in server.runs.values():
        assert run["pipeline_version_reference"]["pipeline_version_id"] == version
        assert "pipeline_spec" not in run
    other = tmp_path / "other.yaml"
    other.write_text(Package.read(PACKAGE).without_cache().text(), encoding="utf-8")
    assert refused(server, "submit", "-f", str(other)).endswith("or submit it --inline")
    assert "--version as it stands" in call(server, "submit", "--inline", "--version", "v1").stderr


def test_a_version_that_was_uploaded_runs_by_its_name(server: KfpServer) -> None:
    fine(server, "upload", "--version", "v1", str(PACKAGE))
    fine(server, "submit", "--version", "v1", "prompts=x")
    [run] = server.runs.values()
    [version] = server.versions
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version
    assert "pipeline_spec" not in run
    assert "promptz" in refused(server, "submit", "--version", "v1", "promptz=x")
    assert "version v2 of pipeline tune: not on the server" in refused(server, "submit", "--version", "v2")
    server.looks = [TRAINING]
    assert "  train running" in fine(server, "status", run["run_id"])


def test_the_service_account_is_passed_on(server: KfpServer) -> None:
    fine(server, "submit", "--service-account", "trainer")
    assert next(iter(server.runs.values()))["service_account"] == "trainer"


def test_kfps_own_command_submits_the_package_as_it_stands(server: KfpServer, tmp_path: Path) -> None:
    kfp = Path(sys.executable).with_name("kfp")
    command = [kfp, "run", "submit", "-e", "drtune", "-r", "nightly", "-f", "pipelines/tune.yaml"]
    environment = os.environ | server.environment | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "prompts=data/sdxl.jsonl"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [run] = server.runs.values()
    assert run["display_name"] == "nightly"
    assert run["runtime_config"]["parameters"] == {"prompts": "data/sdxl.jsonl"}
    assert f"/#/runs/details/{run['run_id']}" in done.stdout


# Wait


def without_times(said: list[str]) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in said]


def test_waiting_tells_of_each_step_once_and_ends_with_what_was_published(server: KfpServer) -> None:
    done = {"prepare-prompts": "SUCCEEDED", "train": "SUCCEEDED", "publish": "SUCCEEDED"}
    server.looks = [Look("PENDING"), TRAINING, TRAINING, Look("SUCCEEDED", done)]
    server.logs[executor_of("publish")] = "sdxl-hps v3 is in production: s3://models/drtune/sdxl-hps/files/5d1c\n"
    said = without_times(fine(server, "submit", "--wait", "-r", "mine"))
    [run] = server.runs
    assert said[4:] == [
        "prepare-prompts succeeded after 1 min",
        "train",
        "train succeeded after 3 min",
        "publish succeeded after 3 min",
        f"report (in step decide): {server.endpoint}/#/runs/details/{run}",
        "run mine: published as sdxl-hps v3 at s3://models/drtune/sdxl-hps/files/5d1c (3 min)",
    ]


PENDING = Look("RUNNING", {"evaluate": "PENDING"})


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (Look("CANCELED", {"train": "CANCELED"}), "cancelled in train"),
        (Look("SKIPPED"), "skipped \\(0 s\\); see http"),
        (FAILED, f"failed in train: it left no log; see http.*/#/runs/details/{UUID}$"),
        (Look("FAILED", {"train": None, "train-driver": "FAILED"}), r"failed in train: Kubeflow could not start it \("),
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
        ("step 3 of 9\n", "OOMKilled (exit code 137)", "OOMKilled (exit code 137)"),
        (LOG, "Pod was active on the node longer than the specified deadline", "out of time (Pod was active"),
        ("I0105 03:04:00.000000 main.go:57] failed to execute\n", "", "failed to execute"),
    ],
)
def test_the_reason_of_a_failed_step_is_its_own_or_that_of_argo(
    server: KfpServer, log: str, argo: str, reason: str
) -> None:
    server.looks = [TRAINING, FAILED]
    server.logs[executor_of("train")] = log
    server.workflow = {executor_of("train"): {"message": argo}}
    assert refused(server, "submit", "--wait", "-r", "mine", code=1).startswith(f"run mine: failed in train: {reason}")


def test_a_run_that_takes_too_long_goes_on(server: KfpServer) -> None:
    server.looks = [TRAINING]
    line = refused(server, "submit", "--wait", "--timeout", "1", "-r", "mine", code=1)
    assert re.match(f"run mine: not over after 1 s; it goes on; `drtune-pipeline status {UUID} --wait` waits", line)
    assert not any("terminate" in request for request in server.requests)


UNSCHEDULABLE = "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def test_a_pod_that_waits_is_told_of_with_the_words_of_the_scheduler(
    server: KfpServer, waiting: Callable[..., Outcome]
) -> None:
    server.looks = [PENDING] * 9 + [Look("SUCCEEDED", {"evaluate": "SUCCEEDED"})]
    server.workflow = {executor_of("evaluate"): {"message": UNSCHEDULABLE}, node_id("other(0)"): {"message": "no"}}
    said: list[str] = []
    assert waiting(say=said.append, pending_seconds=0.02).is_well
    first, second, last = without_times(said)
    assert first == f"evaluate pending: {UNSCHEDULABLE}"
    assert second.startswith(f"evaluate has been pending for 0 s: {UNSCHEDULABLE}; it waits on: give the cluster what")
    assert last.startswith("evaluate succeeded")


def test_a_pod_that_only_starts_is_no_news(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    server.looks = [PENDING] * 3 + [Look("SUCCEEDED", {"evaluate": "SUCCEEDED"})]
    server.workflow = {executor_of("evaluate"): {"message": "ContainerCreating"}}
    said: list[str] = []
    assert waiting(say=said.append).is_well
    assert len(said) == 1


def test_status_shows_why_a_pod_waits(server: KfpServer) -> None:
    server.looks = [PENDING]
    server.workflow = {executor_of("evaluate"): {"message": UNSCHEDULABLE}}
    fine(server, "submit", "-r", "mine")
    assert f"  evaluate pending: {UNSCHEDULABLE}" in fine(server, "status", "mine")
    server.refuse("v1beta1", 404, "Not Found")
    assert "  evaluate pending" in fine(server, "status", "mine")


@pytest.fixture
def waiting(server: KfpServer) -> Iterator[Callable[..., Outcome]]:
    """Follow a run that was just started; takes `say` and the times of `follow`."""
    with connected(server.endpoint, "kubeflow", None) as client:
        package = Package.read(PACKAGE)
        run = submit(client, Job(package, {}, "tried"), "mine", print)
        yield partial(follow, client, run, package, pause_seconds=0.01)


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


def test_each_look_comes_later_than_the_one_before(server: KfpServer, waiting: Callable[..., Outcome]) -> None:
    server.looks = [TRAINING]
    assert waiting(say=print, timeout_seconds=1.0).state == "TIMEOUT"
    looks = sum(request.startswith("GET") and "/runs/" in request for request in server.requests)
    assert looks <= 17  # 0.01 s times 1.2, 1.44, ... is a second after 17; without growth there would be a hundred


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


# Status, logs, cancel


def test_status_shows_one_run_by_id_or_name_and_the_newest(server: KfpServer) -> None:
    assert fine(server, "status") == ["no runs"]
    server.looks = [TRAINING]
    fine(server, "submit", "-r", "mine")
    fine(server, "submit", "-r", "mine", "-e", "other")
    older, newer = server.runs
    for given, identity in ((older, older), ("mine", newer)):
        said = fine(server, "status", given)
        assert said[0] == f"run mine: RUNNING, {identity}"
        assert said[2] == "  train running"
    assert [line.split()[3:] for line in fine(server, "status")] == [[newer, "mine"], [older, "mine"]]
    assert [line.split()[3:] for line in fine(server, "status", "-e", "other")] == [[newer, "mine"]]
    assert refused(server, "status", "-e", "none") == "experiment none: not there; there are drtune, other"
    assert refused(server, "status", "hers").startswith("run hers: there is none of that name")
    unknown = "00000000-0000-0000-0000-000000000000"
    assert "404: Run 00000000" in refused(server, "status", unknown)


def test_status_can_wait_again(server: KfpServer) -> None:
    fine(server, "submit", "-r", "mine")
    server.looks = [FAILED]
    assert refused(server, "status", "mine", "--wait", code=1).startswith("run mine: failed in train: ")


def test_logs_are_those_of_the_pod_and_later_what_argo_kept(server: KfpServer) -> None:
    server.looks = [FAILED]
    fine(server, "submit", "-r", "mine")
    server.logs[executor_of("train")] = LOG
    server.archived[executor_of("prepare-prompts")] = "3 prompts\n"
    assert fine(server, "logs", "mine", "train")[3] == "Traceback (most recent call last):"
    everything = fine(server, "logs", "mine")
    assert everything[:2] == ["== prepare-prompts succeeded after 1 min", "3 prompts"]
    assert "Loading the base" in everything
    server.archived.clear()
    assert "Argo kept nothing of it" in fine(server, "logs", "mine")[1]
    assert refused(server, "logs", "mine", "prepare-prompts").startswith("log of step prepare-prompts: its pod is not")
    assert refused(server, "logs", "mine", "publish").endswith("reached: prepare-prompts, train")


def test_a_run_is_cancelled_once(server: KfpServer) -> None:
    server.looks = [TRAINING]
    fine(server, "submit", "-r", "mine")
    fine(server, "cancel", "mine")
    assert any(request.endswith(":terminate") for request in server.requests)
    assert refused(server, "cancel", "mine") == "run mine: is over (cancelled); there is nothing to cancel"
    said = fine(server, "status", "mine")
    assert said[0].startswith("run mine: CANCELED, ")
    assert said[-1].startswith("error: cancelled in train (")


# Schedules

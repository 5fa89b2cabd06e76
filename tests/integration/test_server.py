"""The commands of drtune-pipeline against a server, as a person types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kfp_server_api import ApiException

from pipelines.cli.main import PACKAGE
from pipelines.server.client import connected
from pipelines.server.follow import Outcome, follow
from pipelines.server.package import Package
from pipelines.server.runs import Job, submit
from tests.kfp_api import KfpServer, Look
from tests.server_calls import call, fine, refused
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
    result = call(server, "upload", str(PACKAGE), DRTUNE_CODE_REVISION="4a1b2c")
    [version] = server.versions.values()
    [pipeline] = server.pipelines.values()
    assert (pipeline["display_name"], version["display_name"]) == ("tune", "4a1b2c")
    spec, platform = yaml.safe_load_all(PACKAGE.read_text(encoding="utf-8"))
    assert version["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
    assert result.stdout.splitlines() == [
        f"pipeline tune version 4a1b2c: uploaded, {version['pipeline_version_id']}",
        f"{server.endpoint}/#/pipelines/details/{pipeline['pipeline_id']}/version/{version['pipeline_version_id']}",
    ]


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
        "experiment tried: made, since it was not there",
        f"run mine: {run['run_id']}",
        f"{server.endpoint}/#/runs/details/{run['run_id']}",
    ]


def test_an_experiment_that_is_there_is_used_unless_it_is_archived(server: KfpServer) -> None:
    fine(server, "submit")
    assert fine(server, "submit")[0].startswith("run tune ")
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
    fine(server, "submit")
    fine(server, "submit", "--no-cache")
    with_cache, without = (json.dumps(run["pipeline_spec"]) for run in server.runs.values())
    assert "enableCache" in with_cache
    assert "enableCache" not in without


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


def test_waiting_tells_of_each_step_once_and_ends_well(server: KfpServer) -> None:
    done = {"prepare-prompts": "SUCCEEDED", "train": "SUCCEEDED", "publish": "SKIPPED"}
    server.looks = [Look("PENDING"), TRAINING, TRAINING, Look("SUCCEEDED", done)]
    said = fine(server, "submit", "--wait", "-r", "mine")
    assert [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in said[3:]] == [
        "prepare-prompts succeeded after 1 min",
        "train",
        "train succeeded after 3 min",
        "publish skipped",
        "run mine succeeded after 3 min",
    ]


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (Look("CANCELED", {"train": "CANCELED"}), f"run {UUID}: canceled; see http"),
        (Look("SKIPPED"), f"run {UUID}: skipped; see http"),
        (Look("FAILED", error="quota exceeded"), f"run {UUID}: failed; quota exceeded$"),
        (Look("FAILED", {"train": "FAILED"}, error="quota exceeded"), "step train: quota exceeded$"),
        (FAILED, f"step train: failed without a reason; see http.*/#/runs/details/{UUID}$"),
        (
            Look("FAILED", {"train": "SKIPPED", "train-driver": "FAILED"}),
            r"step train: Kubeflow could not start it \(its",
        ),
    ],
    ids=lambda value: value.state.lower() if isinstance(value, Look) else "",
)
def test_waiting_ends_with_1_unless_the_run_succeeded(server: KfpServer, look: Look, message: str) -> None:
    server.looks = [look]
    assert re.match(message, refused(server, "submit", "--wait", code=1))


def test_the_reason_of_a_failed_step_is_the_last_exception_in_its_log(server: KfpServer) -> None:
    server.looks = [TRAINING, FAILED]
    server.logs["tune-x7k2p-system-container-impl-1"] = LOG
    assert refused(server, "submit", "--wait", code=1) == (
        "step train: batch_size=3: cannot be shared by processes=2; make it a multiple"
    )


def test_a_run_that_takes_too_long_goes_on(server: KfpServer) -> None:
    server.looks = [TRAINING]
    line = refused(server, "submit", "--wait", "--timeout", "1", code=1)
    assert re.match(f"run {UUID}: not over after 1 s; it goes on; `drtune-pipeline status {UUID} --wait` waits", line)
    assert not any("terminate" in request for request in server.requests)


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
    environment = os.environ | server.environment | {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
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
    assert refused(server, "status", "mine", "--wait", code=1).startswith("step train: ")


def test_logs_of_kubeflow(server: KfpServer) -> None:
    server.looks = [FAILED]
    fine(server, "submit", "-r", "mine")
    server.logs["tune-x7k2p-system-container-impl-1"] = LOG
    assert fine(server, "logs", "mine", "train")[3] == "Traceback (most recent call last):"
    everything = fine(server, "logs", "mine")
    assert "Kubernetes cannot be asked: set KUBECONFIG" in everything[1]
    assert "Loading the base" in everything
    assert refused(server, "logs", "mine", "publish").endswith("reached: prepare-prompts, train")


class Kubernetes(BaseHTTPRequestHandler):
    """Two attempts of the step train, and a pod of another step; the log of each is its name."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        pods = "/api/v1/namespaces/kubeflow/pods"
        if url.path == pods and "labelSelector=pipeline%2Frunid%3D" in url.query:
            places = ["root.train.executor(0)", "root.train.executor(1)", "root.evaluate.executor"]
            answer = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": list(map(self.pod, range(3), places))})
        else:
            answer = f"log of {url.path.removeprefix(pods)} {url.query}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if answer.startswith("{") else "text/plain")
        self.end_headers()
        self.wfile.write(answer.encode())

    def pod(self, number: int, place: str) -> dict[str, object]:
        return {
            "metadata": {
                "name": f"pod-{number}",
                "creationTimestamp": f"2026-01-05T03:0{number}:00Z",
                "annotations": {"workflows.argoproj.io/node-name": f"tune-x7k2p.{place}"},
            }
        }

    def log_message(self, *_about: object) -> None:
        pass


def test_logs_of_kubernetes_are_those_of_the_last_attempt(server: KfpServer, tmp_path: Path) -> None:
    server.looks = [FAILED]
    fine(server, "submit", "-r", "mine")
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes) as kubernetes:
        threading.Thread(target=kubernetes.serve_forever, daemon=True).start()
        named = {"name": "here"}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{kubernetes.server_port}"}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "here", "user": "here"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(kubeconfig), encoding="utf-8")
        # kubernetes reads KUBECONFIG when it is imported
        command = [sys.executable, "-m", "pipelines.cli.main", "logs", "mine"]
        environment = os.environ | server.environment | {"HOME": str(tmp_path), "KUBECONFIG": str(path)}
        train, missing = (
            subprocess.run([*command, step], cwd=ROOT, env=environment, capture_output=True, text=True)
            for step in ("train", "prepare-prompts")
        )
        kubernetes.shutdown()
    assert train.stdout.splitlines()[1] == "log of /pod-1/log container=main"
    assert missing.returncode == 2
    assert "has no pod of it in namespace kubeflow; it may have been cleaned up" in missing.stderr


def test_a_run_is_cancelled_once(server: KfpServer) -> None:
    server.looks = [TRAINING]
    fine(server, "submit", "-r", "mine")
    fine(server, "cancel", "mine")
    assert any(request.endswith(":terminate") for request in server.requests)
    assert refused(server, "cancel", "mine") == "run mine: is over (CANCELED); there is nothing to cancel"


# Schedules

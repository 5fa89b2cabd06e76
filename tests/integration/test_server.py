"""The commands of drtune-pipeline against a server, as a person types them."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from click.testing import CliRunner, Result
from kfp_server_api import ApiException

from pipelines.commands import PACKAGE, main
from pipelines.server.client import connected
from pipelines.server.follow import Outcome, follow
from pipelines.server.package import Package
from pipelines.server.runs import Job, submit
from tests.kfp_api import KfpServer, Look

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


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as started:
        yield started


def call(server: KfpServer, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=server.environment | environment)


def fine(server: KfpServer, *arguments: str) -> list[str]:
    result = call(server, *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


def refused(server: KfpServer, *arguments: str, code: int = 2, **environment: str) -> str:
    """The one line that says why."""
    result = call(server, *arguments, **environment)
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def a_list() -> str:
    """A parameter of the pipeline that is a list, whatever its name."""
    parameters = Package.read(PACKAGE).parameters
    return next(name for name, parameter in parameters.items() if parameter["parameterType"] == "LIST")


# Upload


def test_an_upload_is_a_version_named_after_the_code(server: KfpServer) -> None:
    result = call(server, "upload", str(PACKAGE), DRTUNE_CODE_REVISION="4a1b2c")
    [version] = server.versions.values()
    [pipeline] = server.pipelines.values()
    assert (pipeline["display_name"], version["display_name"]) == ("tune", "4a1b2c")
    assert version["pipeline_spec"] == yaml.safe_load(PACKAGE.read_text(encoding="utf-8"))
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
        server, "submit", "-e", "tried", "-r", "mine", "prompts=data/sdxl.jsonl", f"{a_list()}={json.dumps(texts)}"
    )
    [run] = server.runs.values()
    [experiment] = server.experiments.values()
    assert run["runtime_config"]["parameters"] == {"prompts": "data/sdxl.jsonl", a_list(): texts}
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


@pytest.mark.parametrize("wrong", ["promptz=x", "{list}=3", '{list}=["stepz=20"]', "prompts"])
def test_a_mistake_is_found_before_the_server_is_asked(server: KfpServer, wrong: str) -> None:
    refused(server, "submit", wrong.format(list=a_list()))
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
    command = [sys.executable, "-m", "pipelines.commands", "submit", "--wait"]
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
        command = [sys.executable, "-m", "pipelines.commands", "logs", "mine"]
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


def test_a_schedule_is_made_with_safe_defaults(server: KfpServer) -> None:
    said = fine(server, "schedule", "nightly", "--cron", "0 3 * * 1", "prompts=x")
    [job] = server.active("nightly")
    assert said[0] == "cron: 0 0 3 * * 1 (second minute hour day-of-month month day-of-week)"
    assert job["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert (job["max_concurrency"], job["no_catchup"]) == (1, True)
    assert job["runtime_config"]["parameters"] == {"prompts": "x"}


def test_a_schedule_is_replaced_so_that_never_two_are_active(server: KfpServer) -> None:
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    [old] = server.recurring
    server.requests.clear()
    said = fine(server, "schedule", "--cron", "0 4 * * *", "nightly")
    [new] = server.recurring
    assert new != old
    changing = [request.split("v2beta1/")[1] for request in server.requests if not request.startswith("GET")]
    assert changing == ["recurringruns", f"recurringruns/{old}", f"recurringruns/{new}:enable"]
    assert server.active("nightly")[0]["recurring_run_id"] == new
    assert f"schedule nightly: deleted the one of before, 0 0 3 * * *, {old}" in said


def test_when_the_new_schedule_is_refused_the_old_one_stays(server: KfpServer) -> None:
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    server.refuse("POST .*/recurringruns$", 400, "too many")
    assert "too many" in refused(server, "schedule", "nightly", "--cron", "0 4 * * *")
    assert [job["trigger"]["cron_schedule"]["cron"] for job in server.active("nightly")] == ["0 0 3 * * *"]


def test_when_the_old_schedule_cannot_be_deleted_only_it_is_active_and_the_next_call_mends(server: KfpServer) -> None:
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    server.refuse("DELETE", 500, "database is locked")
    refused(server, "schedule", "nightly", "--cron", "0 4 * * *")
    assert [job["trigger"]["cron_schedule"]["cron"] for job in server.active("nightly")] == ["0 0 3 * * *"]
    server.misbehave.clear()
    fine(server, "schedule", "nightly", "--cron", "0 4 * * *")
    assert [job["trigger"]["cron_schedule"]["cron"] for job in server.recurring.values()] == ["0 0 4 * * *"]


def test_several_schedules_of_one_name_become_one(server: KfpServer) -> None:
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    [job] = server.recurring.values()
    server.recurring["other"] = {**job, "recurring_run_id": "other"}
    assert len(fine(server, "schedule", "pause", "nightly")) == 2
    fine(server, "schedule", "resume", "nightly")
    fine(server, "schedule", "nightly", "--cron", "0 4 * * *")
    assert [one["trigger"]["cron_schedule"]["cron"] for one in server.recurring.values()] == ["0 0 4 * * *"]


def test_a_paused_schedule_stays_paused_when_it_is_replaced(server: KfpServer) -> None:
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    fine(server, "schedule", "pause", "nightly")
    said = fine(server, "schedule", "nightly", "--cron", "0 4 * * *")
    assert server.active("nightly") == []
    assert any("schedule resume nightly" in line for line in said)
    fine(server, "schedule", "resume", "nightly")
    assert len(server.active("nightly")) == 1


def test_schedules_are_listed_and_deleted(server: KfpServer) -> None:
    assert fine(server, "schedule", "list") == ["no schedules"]
    fine(server, "schedule", "nightly", "--cron", "0 3 * * *")
    [identity] = server.recurring
    assert fine(server, "schedule", "list") == [f"active  0 0 3 * * *         {identity}  nightly"]
    assert refused(server, "schedule", "delete", "weekly") == "schedule weekly: not there; there are nightly"
    fine(server, "schedule", "delete", "nightly")
    assert server.recurring == {}


# What goes wrong on the way

FORBIDDEN = (
    "Failed to create a new run: Failed to authorize: PermissionDenied: User 'ann@example.com' is not authorized with "
    "reason:  (request: &ResourceAttributes{Namespace:team-a,Verb:create,Group:pipelines.kubeflow.org,Version:v2beta1,"
    "Resource:runs,Subresource:,Name:,}): Unauthorized access"
)


@pytest.mark.parametrize(
    ("pattern", "status", "message", "said"),
    [
        (
            "runs$",
            403,
            FORBIDDEN,
            "not permitted: ann@example.com may not create runs.pipelines.kubeflow.org in namespace team-a",
        ),
        ("runs$", 400, FORBIDDEN, "may not create runs.pipelines.kubeflow.org in namespace team-a; ask for a role"),
        ("runs$", 403, "RBAC: access denied", "not permitted: RBAC: access denied"),
        ("healthz", 401, "no user identity", "it does not know you (no user identity); set KFP_EXISTING_TOKEN"),
        ("healthz", 503, "starting", "the server failed with 503: starting; try again later"),
        ("runs$", 400, "bad\nthing", "the server refused with 400: bad thing"),
    ],
    ids=["403", "403 told as 400", "403 of a gateway", "401", "503", "400"],
)
def test_a_refusal_is_one_line(server: KfpServer, pattern: str, status: int, message: str, said: str) -> None:
    server.refuse(pattern, status, message)
    line = refused(server, "submit")
    assert line.startswith(f"endpoint {server.endpoint}: ")
    assert said in line


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, "a web page"), (404, "a web page"), (405, "a web page"), (502, "failed with 502: Bad Gateway")],
)
def test_what_is_no_api_is_told_apart(server: KfpServer, status: int, said: str) -> None:
    server.show("GET ", "<!doctype html><title>Log in</title>", status)
    assert said in refused(server, "status")


def test_a_server_that_is_down_is_named(server: KfpServer) -> None:
    line = refused(server, "status", "--endpoint", "http://127.0.0.1:9")
    assert line.startswith("endpoint http://127.0.0.1:9: no answer (Failed to establish a new connection: ")
    assert line.endswith("Connection refused); is the server up, and can it be reached from here?")


def test_a_certificate_is_trusted_only_when_it_is_named(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with KfpServer(certificate=certificate, key=key) as server:
        line = refused(server, "status")
        assert "no trusted connection (" in line
        assert line.endswith("SSL_CERT_FILE names a file with certificates to trust")
        result = call(server, "status", SSL_CERT_FILE=str(certificate))
        assert result.output == "no runs\n"


def test_an_endpoint_that_is_none_is_named(server: KfpServer, tmp_path: Path) -> None:
    assert "neither with http://" in refused(server, "status", "--endpoint", "ftp://kubeflow")
    line = refused(server, "status", KF_PIPELINES_ENDPOINT="", KUBECONFIG=str(tmp_path / "none"))
    assert line.startswith("endpoint: none is given; set KF_PIPELINES_ENDPOINT")


def test_a_server_for_many_users_wants_a_namespace() -> None:
    with KfpServer(multi_user=True) as server:
        assert "give your namespace with --namespace" in refused(server, "submit")
        fine(server, "submit", "-n", "team-a")
        assert next(iter(server.experiments.values()))["namespace"] == "team-a"


def test_the_token_comes_from_the_environment_an_option_or_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n", encoding="utf-8")
    with KfpServer(token="s3cret") as server:
        anonymous = {"KFP_EXISTING_TOKEN": ""}
        for arguments, environment in (
            ([], {}),
            (["--existing-token", "s3cret"], anonymous),
            ([], anonymous | {"KF_PIPELINES_SA_TOKEN_PATH": str(secret)}),
        ):
            result = call(server, "submit", *arguments, **environment)
            assert result.exit_code == 0, result.output
            assert "s3cret" not in result.output
        wrong = refused(server, "submit", "--existing-token", "0ther")
        assert "it does not know you" in wrong
        assert "0ther" not in wrong
        missing = refused(server, "submit", **anonymous, KF_PIPELINES_SA_TOKEN_PATH="nowhere")
        assert missing.startswith("KF_PIPELINES_SA_TOKEN_PATH=nowhere: no such file")
        assert set(server.tokens) == {"Bearer s3cret", "Bearer 0ther"}

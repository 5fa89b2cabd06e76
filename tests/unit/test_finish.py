"""How a run ended, from what the real servers answered then (tests/recordings/kubeflow), and who is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kubernetes.client import ApiClient, Configuration

from components.finish.ask import LOOKS, Known, look
from components.finish.ending import Ending, ending_of
from components.finish.run import finish_run
from components.finish.webhook import send
from components.train.environment import RUN_ID
from tests.unit.test_endings import FAILED_LOG
from tests.web import Web, saying

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kubeflow"
RUNNING = "RUNNING"
"""What MLMD says of a run that was refused or cancelled."""
RUN, PODS, LOGS = "/apis/v2beta1/runs/", "/api/v1/namespaces/default/pods", "/api/v1/namespaces/kubeflow/pods"
"""The recorded pods are in kubeflow; outside of a cluster `default` is asked for pods."""
REFUSED_LOG = """refused: symmetry: gain 0.01 (95 % interval 0.00 to 0.02), at least 0.10 wanted
  passed: preference: fell by 0.1, at most 1.0 wanted
I1128 17:39:49.180012      19 launcher_v2.go:250] publish success.
"""


@cache
def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


def pod(step: str, phase: str = "Succeeded", reason: str | None = None, ended: str = "Completed") -> dict[str, Any]:
    """The recorded pod, as that of another step."""
    made: dict[str, Any] = copy.deepcopy(recorded("pod-of-the-failed-step"))
    annotations = made["metadata"]["annotations"]
    for key, value in annotations.items():
        annotations[key] = value.replace("prepare-prompts", step)
    made["metadata"]["name"] = f"pod-of-{step}"
    made["status"] |= {"phase": phase} | ({"reason": reason} if reason else {})
    for container in made["status"]["containerStatuses"]:
        if container["name"] == "main":
            container["state"]["terminated"]["reason"] = ended
    return made


def known(web: Web, run: str | None, *pods: dict[str, Any], status: str = RUNNING, **logs: str) -> Known:
    """What can be known with these answers of Kubeflow's and Kubernetes' APIs."""
    identity = recorded(run)["run_id"] if run else "lost"
    if run:
        web.answers[RUN + identity] = 200, json.dumps(recorded(run))
    web.answers[PODS] = 200, json.dumps({"kind": "PodList", "apiVersion": "v1", "items": list(pods)})
    for step, log in logs.items():
        web.answers[f"{LOGS}/pod-of-{step}/log"] = 200, log
    told = dsl.PipelineTaskFinalStatus(status, "tune", "run", None, "")
    return look(told, environment(web, identity), client_of(web), pause=lambda _seconds: None)


def environment(web: Web, run: str) -> dict[str, str]:
    return {RUN_ID: run, "ML_PIPELINE_SERVICE_HOST": "127.0.0.1", "ML_PIPELINE_SERVICE_PORT": str(web.server_port)}


def client_of(web: Web) -> ApiClient:
    settings = Configuration()
    settings.host, settings.retries = web.url, False
    return ApiClient(settings)


def ending(seen: Known, registry: str = "/nowhere") -> Ending:
    return ending_of(seen, registry, "miniature-symmetry", {})


def test_a_run_that_published_says_so_even_where_the_registry_cannot_be_read(web: Web, tmp_path: Path) -> None:
    told = ending(known(web, "run-published", status="COMPLETE"), str(tmp_path))
    assert told.word == "Published"
    assert told.sentence.startswith(f"published as miniature-symmetry in {tmp_path}; which version it is could not")


def test_a_refused_run_names_the_rules_that_it_failed(web: Web) -> None:
    told = ending(known(web, "run-refused-by-the-gate", pod("decide"), decide=REFUSED_LOG))
    wanted = "symmetry: gain 0.01 (95 % interval 0.00 to 0.02), at least 0.10 wanted"
    assert told == Ending("Refused", f"refused: {wanted}", ("report: in the step decide",))


def test_a_refused_run_is_known_by_the_step_that_was_skipped_where_no_pod_is_left(web: Web) -> None:
    told = ending(known(web, "run-refused-by-the-gate"))
    assert told == Ending("Refused", "refused by the policy", ("report: in the step decide",))


def test_a_failed_run_names_its_step_and_what_that_said(web: Web) -> None:
    failed = recorded("pod-of-the-failed-step")
    web.answers[f"{LOGS}/{failed['metadata']['name']}/log"] = 200, FAILED_LOG
    told = ending(known(web, "run-failed-in-prepare-prompts", failed, status="FAILED"))
    reason = "prompts s3://traffic/nothing.jsonl: not there; give the path of a file"
    assert told == Ending("Failed", f"failed in prepare-prompts: {reason}")


def test_a_log_that_is_no_text_and_one_that_is_lost_with_its_node_keep_nothing_else_from_being_told(web: Web) -> None:
    web.answers[f"{LOGS}/pod-of-prepare-prompts/log"] = 200, b"\xff\xfe\nerror: prompts \xff: not there\n"
    told = ending(known(web, None, pod("prepare-prompts", "Failed", None, "Error")))
    assert told == Ending("Failed", "failed in prepare-prompts: prompts \N{REPLACEMENT CHARACTER}: not there")
    web.answers[f"{LOGS}/pod-of-train/log"] = 0, ""
    seen = known(web, None, pod("prepare-prompts"), pod("train", "Failed", None, "OOMKilled"))
    assert ending(seen) == Ending("Failed", "failed in train: it was out of memory")


def test_a_cancelled_run_is_called_cancelled_though_kubeflow_says_failed_in_the_end(web: Web) -> None:
    told = ending(known(web, "run-cancelled-in-evaluate"))
    assert told == Ending("Cancelled", "cancelled in evaluate")


@pytest.mark.parametrize(
    ("reason", "ended", "word", "sentence"),
    [
        (
            "DeadlineExceeded",
            "Error",
            "Out of time",
            "out of time in train: it took longer than a step of its kind may",
        ),
        (None, "OOMKilled", "Failed", "failed in train: it was out of memory"),
        ("Evicted", "Error", "Failed", "failed in train: its pod was evicted from its node"),
        (None, "Error", "Failed", "failed in train: without a word; its log may say more"),
    ],
)
def test_where_kubeflow_cannot_be_asked_the_pods_tell(
    reason: str | None, ended: str, word: str, sentence: str, web: Web
) -> None:
    seen = known(web, None, pod("prepare-prompts"), pod("train", "Failed", reason, ended))  # which left no log
    assert ending(seen) == Ending(word, sentence)


def test_what_nobody_can_tell_is_said_to_be_unknown(web: Web) -> None:
    told = ending(known(web, None))
    assert told.word == "Ended"
    assert told.sentence.startswith("ended: refused, cancelled, out of time or lost; Kubeflow's API did not say")
    assert "404" in told.sentence


def test_pods_that_may_not_be_read_are_no_failure(web: Web) -> None:
    web.answers[RUN + "x"] = 200, json.dumps({"run_details": {"task_details": [{"display_name": "train"}]}})
    status = dsl.PipelineTaskFinalStatus(RUNNING, "tune", "run", None, "")
    seen = look(status, environment(web, "x"), client_of(web), pause=lambda _seconds: None)
    assert sum(asked.path == RUN + "x" for asked in web.asked) == LOOKS  # it may only be late
    assert "the pods of the steps cannot be read (404" in ending(seen).sentence


def test_the_outcome_is_written_printed_and_sent(web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recorded("run-cancelled-in-evaluate")
    web.answers |= {RUN + run["run_id"]: (200, json.dumps(run)), "/hook": (200, "ok")}
    web.answers[PODS] = 200, json.dumps({"kind": "PodList", "items": []})
    news = {"DRTUNE_WEBHOOK_URL": f"{web.url}/hook", "DRTUNE_UI_URL": "https://ui.example.com/pipeline/"}
    status = dsl.PipelineTaskFinalStatus(RUNNING, "tune", "run", None, "")
    given = environment(web, run["run_id"]) | news
    finish_run(status, "", "", "miniature-symmetry", str(tmp_path / "outcome"), given, client_of(web))
    page = f"run: https://ui.example.com/pipeline/#/runs/details/{run['run_id']}"
    sentence = "cancelled in evaluate"
    assert (tmp_path / "outcome").read_text(encoding="utf-8") == f"# Cancelled\n\n{sentence}\n\n- {page}\n"
    assert capsys.readouterr().out.splitlines()[-1] == f"outcome: {sentence}"
    [sent] = [asked for asked in web.asked if asked.method == "POST"]
    assert (sent.path, sent.headers["Content-Type"]) == ("/hook", "application/json")
    assert json.loads(sent.body) == {"text": f"drtune run retrain-drift: {sentence}\n{page}"}


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("{web}/nothing", "the webhook was not told: Not Found"),
        ("http://127.0.0.1:9/secret", "the webhook was not told: [Errno 111] Connection refused"),
        (
            "file:///etc/passwd",
            "the webhook was not told: DRTUNE_WEBHOOK_URL begins neither with http:// nor with https://",
        ),
        ("http://[/secret", "the webhook was not told: its address is none"),
        ("{web}/a secret", "the webhook was not told: its address is none"),
        ("", ""),
    ],
)
def test_a_webhook_that_does_not_answer_is_a_line_and_its_address_stays_secret(
    address: str, problem: str, web: Web
) -> None:
    assert send("done", {"DRTUNE_WEBHOOK_URL": address.format(web=web.url)}) == problem


def test_what_answers_in_another_tongue_or_hangs_up_is_a_line(web: Web) -> None:
    with saying(b"SSH-2.0-secret\r\n") as port:
        problem = send("done", {"DRTUNE_WEBHOOK_URL": f"http://127.0.0.1:{port}/secret"})
    assert problem == "the webhook was not told: BadStatusLine"
    web.answers[PODS] = 200, json.dumps({"kind": "PodList", "items": []})
    status = dsl.PipelineTaskFinalStatus(RUNNING, "tune", "run", None, "")
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}") as port:
        given = environment(web, "x") | {"ML_PIPELINE_SERVICE_PORT": str(port)}
        seen = look(status, given, client_of(web), pause=lambda _seconds: None)
    assert "did not say how the run ended (IncompleteRead(2 bytes read, 97 more expected))" in ending(seen).sentence


def test_a_cluster_that_cannot_be_asked_keeps_no_outcome_from_being_told(tmp_path: Path) -> None:
    status = dsl.PipelineTaskFinalStatus("FAILED", "tune", "run", None, "")
    given = {RUN_ID: "5f2c", "ML_PIPELINE_SERVICE_HOST": "127.0.0.1", "ML_PIPELINE_SERVICE_PORT": "9"}
    finish_run(status, "cluster.yaml", "", "a", str(tmp_path / "outcome"), given)
    text = (tmp_path / "outcome").read_text(encoding="utf-8")
    assert text.startswith(
        "# Failed\n\nfailed; the last lines of the step that failed say why\n\nWhether a training job is left"
    )

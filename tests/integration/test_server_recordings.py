"""Recorded runs of a real server, through the commands that tell of them.

The nodes' ids are those of the recordings; what the steps wrote was not recorded, and stands here in their words.
"""

from __future__ import annotations

import json

from pipelines.server.client import connected
from tests.kfp_api import NO_SUCH_POD, RECORDINGS, KfpServer
from tests.kfp_nodes import node_id
from tests.server_calls import fine, refused
from tests.server_calls import server as server

PREPARE_THAT_FAILED = "tune-wm425-293302897"
PUBLISH = "tune-5mtk4(0).root(0).exit-handler-1(0).condition-2(0).publish(0).executor(0)"
DECIDE_THAT_REFUSED = "tune-nr76j(0).root(0).exit-handler-1(0).decide(0).executor(0)"
MONITOR_THAT_FAILED = "monitor-vd85z(0).root(0).monitor(0).executor(0)"
MONITOR_OF_A_SCHEDULE = "watchgcs8m-1-3961680838(0).root(0).monitor(0).executor(0)"
EVALUATE_THAT_WAS_CANCELLED = (
    "retrain-8692c(0).root(0).condition-1(0).tune(0).exit-handler-1(0).evaluate(0).executor(0)"
)


def without_page(said: list[str]) -> list[str]:
    [page] = [line for line in said if "/#/runs/details/" in line]
    return [line for line in said if line != page]


def test_a_run_that_published(server: KfpServer) -> None:
    run = server.replay("published", "tune", PUBLISH)
    server.logs[node_id(PUBLISH)] = (
        "published as miniature-symmetry v2 at s3://models/drtune/miniature-symmetry/files/5d1c\n"
    )
    ending = "published as miniature-symmetry v2 at s3://models/drtune/miniature-symmetry/files/5d1c (18 min 7 s)"
    page = f"report (in step decide): {server.url}/#/runs/details/{run}"
    assert fine(server, "status", "accepted") == [
        f"run accepted: SUCCEEDED, {run}",
        "  prepare-prompts succeeded after 20 s",
        "  train succeeded after 3 min 41 s",
        "  evaluate succeeded after 10 min 15 s",
        "  decide succeeded after 10 s",
        "  publish succeeded after 20 s",
        "  finish succeeded after 10 s",
        page,
        ending,
    ]
    assert fine(server, "status", run, "--wait")[-2:] == [page, f"run accepted: {ending}"]


def test_a_run_that_the_gate_refused(server: KfpServer) -> None:
    run = server.replay("refused-by-the-gate", "tune", DECIDE_THAT_REFUSED)
    server.archived[node_id(DECIDE_THAT_REFUSED)] = (
        "refused: symmetry against base: gain 0.01, at least 0.1 wanted; 3 prompts\n"
        "  passed: drift: 0.010 from the base, at most 0.3 wanted\n"
    )
    said = fine(server, "status", run)
    assert "  publish not run" in said
    ending = "refused: symmetry against base: gain 0.01, at least 0.1 wanted; 3 prompts (4 min 18 s)"
    assert said[-1] == ending
    assert fine(server, "status", run, "--wait")[-1] == f"run refused2: {ending}"
    server.archived.clear()
    assert fine(server, "status", run)[-1] == "refused by the policy (4 min 18 s)"


def test_a_run_whose_step_failed(server: KfpServer) -> None:
    run = server.replay("failed-in-prepare-prompts", "tune")
    pod = json.loads((RECORDINGS / "pod-of-the-failed-step.json").read_text(encoding="utf-8"))["metadata"]
    assert pod["annotations"]["workflows.argoproj.io/node-id"] == PREPARE_THAT_FAILED
    log = "error: prompts s3://traffic/nothing.jsonl: no such object\nF1128 18:08:44.1 main.go:57] exit status 2\n"
    server.logs[PREPARE_THAT_FAILED] = log
    reason = "failed in prepare-prompts: prompts s3://traffic/nothing.jsonl: no such object"
    assert refused(server, "status", run, "--wait", code=1) == f"run badprompts: {reason}"
    assert any(request.endswith(f"/nodes/{pod['name']}/log") for request in server.requests)
    assert without_page(fine(server, "status", run)) == [
        f"run badprompts: FAILED, {run}",
        "  prepare-prompts failed after 1 min 21 s",
        "  train not run",
        "  evaluate not run",
        "  decide not run",
        "  finish succeeded after 10 s",
        "  publish not run",
        f"error: {reason}",
    ]
    assert fine(server, "logs", run, "prepare-prompts")[1:] == log.splitlines()
    server.archived[PREPARE_THAT_FAILED] = server.logs.pop(PREPARE_THAT_FAILED)
    assert fine(server, "logs", run, "prepare-prompts")[1:] == log.splitlines()
    server.archived.clear()
    assert "it left no log" in refused(server, "status", run, "--wait", code=1)


def test_a_run_that_was_cancelled(server: KfpServer) -> None:
    run = server.replay("cancelled-in-evaluate", "retrain", EVALUATE_THAT_WAS_CANCELLED)
    assert without_page(fine(server, "status", run)) == [
        f"run retrain-drift: CANCELED, {run}",
        "  monitor succeeded after 20 s",
        "  prepare-prompts succeeded after 20 s",
        "  train succeeded after 1 min 50 s",
        "  evaluate cancelled after 5 min 8 s",
        "  decide not run",
        "  finish succeeded after 10 s",
        "  publish not run",
        "error: cancelled in evaluate (9 min 19 s)",
    ]
    line = refused(server, "status", run, "--wait", code=1)
    assert line == "run retrain-drift: cancelled in evaluate (9 min 19 s)"
    assert "  CANCELED   " in fine(server, "status")[0]
    assert refused(server, "cancel", run) == f"run {run}: is over (cancelled); there is nothing to cancel"
    server.logs[node_id(EVALUATE_THAT_WAS_CANCELLED)] = "12 of 400 prompts\n"  # three pipelines deep
    assert fine(server, "logs", run, "evaluate")[1] == "12 of 400 prompts"


def test_a_run_whose_result_kubeflow_refused(server: KfpServer) -> None:
    run = server.replay("metadata-with-null", "monitor", MONITOR_THAT_FAILED)
    refusal = "unknown/unsupported value type *structpb.Value_NullValue"
    server.logs[node_id(MONITOR_THAT_FAILED)] = (
        f"stable: no check fails\nF1128 17:41:49.1 main.go:57] failed: {refusal}\n"
    )
    assert refused(server, "status", run, "--wait", code=1) == f"run mon-stable: failed in monitor: failed: {refusal}"


def test_a_run_of_a_schedule(server: KfpServer) -> None:
    run = server.replay("of-a-schedule", "monitor", MONITOR_OF_A_SCHEDULE)
    server.logs[node_id(MONITOR_OF_A_SCHEDULE)] = "stable: 0 of 4 checks fail\n  length: the same\n"
    assert fine(server, "status", run) == [
        f"run watchgcs8m-1-3961680838: SUCCEEDED, {run}",
        "  monitor succeeded after 38 s",
        f"page: {server.url}/#/runs/details/{run}",
        "stable: 0 of 4 checks fail (58 s)",
    ]


def test_a_log_that_is_not_there_is_no_log(server: KfpServer) -> None:
    assert NO_SUCH_POD.startswith('{"error_message":"BadRequestError: Failed to read logs for run c41b6cf4')
    with connected(server.url, "kubeflow", None) as client:
        assert client.read_log("c41b6cf4", "tune-wm425-system-container-impl-2669924211") is None
        assert client.read_archived_log("c41b6cf4", PREPARE_THAT_FAILED) is None


def test_nodes_have_the_ids_that_argo_gave_them() -> None:
    nodes = json.loads((RECORDINGS / "workflow-failed-in-prepare-prompts.json").read_text())["status"]["nodes"]
    for node in nodes.values():
        assert node["id"] in (node_id(node["name"]), node["name"])  # the workflow's own node has its name
    assert len(nodes) == 32

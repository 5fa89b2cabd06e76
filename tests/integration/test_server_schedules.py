"""Schedules on a server, and what a server that refuses or is none is answered with, as a person types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kfp_api import THROUGH_KUBERNETES, KfpServer
from tests.kfp_nodes import Look
from tests.relay import make_certificate
from tests.server_calls import COMMITTED, call, fine, refused
from tests.server_calls import server as server

ROOT = Path(__file__).parents[2]
FAILED = Look("FAILED", {"prepare-prompts": "SUCCEEDED", "train": "FAILED"})


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
    assert line.startswith(f"endpoint {server.url}: ")
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
    certificate = make_certificate(tmp_path) or pytest.skip("needs openssl")
    with KfpServer(certificate=certificate) as server:
        line = refused(server, "status")
        assert "no trusted connection (" in line
        assert line.endswith("SSL_CERT_FILE names a file with certificates to trust")
        result = call(server, "status", SSL_CERT_FILE=str(certificate[0]))
        assert result.output == "no runs\n"


def test_an_endpoint_that_is_none_is_named(server: KfpServer, tmp_path: Path) -> None:
    assert "neither with http://" in refused(server, "status", "--endpoint", "ftp://kubeflow")
    line = refused(server, "status", KF_PIPELINES_ENDPOINT="", KUBECONFIG=str(tmp_path / "none"))
    assert line.startswith("endpoint: none is given; set KF_PIPELINES_ENDPOINT")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [b", "ParserError: while parsing a flow sequence"),
        ("hello", "TypeError"),
        ("", "ConfigException: Invalid kube-config. .* file is empty"),
        ("{contexts: [], clusters: [], users: [], current-context: mine}", "ConfigException: .* name mine in .*"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_where_it_would_lead_to_the_server(
    server: KfpServer, tmp_path: Path, content: str, reason: str
) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(content, encoding="utf-8")
    line = refused(server, "status", KF_PIPELINES_ENDPOINT="", KUBECONFIG=str(kubeconfig))
    assert re.fullmatch(rf"kubeconfig {kubeconfig}: cannot be used \({reason}.*\); mend it, or have .*", line)


def test_a_server_for_many_users_wants_a_namespace() -> None:
    with KfpServer(multi_user=True, token="s3cret") as server:
        assert "give your namespace with --namespace" in refused(server, "submit")
        fine(server, "submit", "-n", "team-a")
        assert next(iter(server.experiments.values()))["namespace"] == "team-a"


def test_without_an_endpoint_the_one_of_all_users_is_found_through_kubernetes(tmp_path: Path) -> None:
    with KfpServer(multi_user=True, token="s3cret") as server:
        cluster = {"clusters": [{"name": "here", "cluster": {"server": server.url}}]}
        users = {"users": [{"name": "me", "user": {}}], "current-context": "mine"}
        context = {"contexts": [{"name": "mine", "context": {"cluster": "here", "user": "me"}}]}
        kubeconfig = tmp_path / "config"
        kubeconfig.write_text(json.dumps(cluster | users | context), encoding="utf-8")
        at_hand = {"KF_PIPELINES_ENDPOINT": "", "KUBECONFIG": str(kubeconfig), "KFP_EXISTING_TOKEN": ""}
        command = [sys.executable, "-m", "pipelines.cli.main", "submit", "--inline", "-n", "team-a"]
        result = subprocess.run(  # Kubernetes' client reads KUBECONFIG once for a process
            command, cwd=ROOT, env=os.environ | COMMITTED | at_hand, capture_output=True, text=True
        )
        asked = f"{server.url}{THROUGH_KUBERNETES}"
        assert result.stderr.startswith(f"error: endpoint {asked}: it does not know you ("), result.stderr
        line = refused(server, "status", "--existing-token", "s3cret", **at_hand)
        assert line.startswith("endpoint: none is given, and a token wants one; set KF_PIPELINES_ENDPOINT")


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

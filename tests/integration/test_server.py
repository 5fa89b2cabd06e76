"""The commands of drtune-pipeline against a server, as a person types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from pipelines.cli.options import TUNE
from pipelines.server.package import Package
from tests.kfp_api import KfpServer
from tests.kfp_nodes import Look, executor_of
from tests.server_calls import FAILED, LOG, TRAINING, call, fine, refused
from tests.server_calls import server as server

ROOT = Path(__file__).parents[2]


# Upload


def test_an_upload_is_a_version_named_after_the_code(server: KfpServer) -> None:
    result = call(server, "upload", str(TUNE), DRTUNE_CODE_REVISION="4a1b2c9" * 5)
    [version] = server.versions.values()
    [pipeline] = server.pipelines.values()
    name = f"{metadata.version('drtune')}-4a1b2c9"  # no commit of that name is here, and so no day
    assert (pipeline["display_name"], version["display_name"]) == ("tune", name)
    spec, platform = yaml.safe_load_all(TUNE.read_text(encoding="utf-8"))
    assert version["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
    assert result.stdout.splitlines() == [
        f"pipeline tune version {name}: uploaded, {version['pipeline_version_id']}",
        f"{server.url}/#/pipelines/details/{pipeline['pipeline_id']}/version/{version['pipeline_version_id']}",
    ]


def test_the_name_of_a_version_tells_the_day_of_its_commit(server: KfpServer) -> None:
    commit, day = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for command in (["rev-parse", "HEAD"], ["show", "-s", "--format=%cd", "--date=format:%Y%m%d", "HEAD"])
    )
    call(server, "upload", str(TUNE), DRTUNE_CODE_REVISION=commit)
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
    fine(server, "upload", "--version", "v1", str(TUNE))
    assert "there already" in fine(server, "upload", "--version", "v1", str(TUNE))[0]
    other = tmp_path / "other.yaml"
    other.write_text(TUNE.read_text(encoding="utf-8").replace("miniature-symmetry", "another"), encoding="utf-8")
    assert refused(server, "upload", "--version", "v1", str(other)).startswith(
        "version v1 of pipeline tune: is there already with another content"
    )
    fine(server, "upload", "--version", "v2", str(other))
    assert [version["display_name"] for version in server.versions.values()] == ["v1", "v2"]
    assert len(server.pipelines) == 1


def test_all_pipelines_are_uploaded_by_default(server: KfpServer) -> None:
    fine(server, "upload", "--version", "v1")
    names = {Package.read(path).name for path in TUNE.parent.glob("*.yaml")}
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
        f"{server.url}/#/runs/details/{run['run_id']}",
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


def test_a_run_is_one_of_the_version_of_the_code(server: KfpServer, tmp_path: Path) -> None:
    for _ in range(2):
        fine(server, "submit")
    [version] = server.versions
    for run in server.runs.values():
        assert run["pipeline_version_reference"]["pipeline_version_id"] == version
        assert "pipeline_spec" not in run
    other = tmp_path / "other.yaml"
    other.write_text(TUNE.read_text(encoding="utf-8").replace("miniature-symmetry", "another"), encoding="utf-8")
    assert refused(server, "submit", "-f", str(other)).endswith("or submit it --inline")
    assert "--version as it stands" in call(server, "submit", "--inline", "--version", "v1").stderr


def test_a_version_that_was_uploaded_runs_by_its_name(server: KfpServer) -> None:
    fine(server, "upload", "--version", "v1", str(TUNE))
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
    server.is_behind_the_interface = True
    assert fine(server, "logs", "mine", "train")[1:] == LOG.rstrip().splitlines()
    assert fine(server, "logs", "mine", "prepare-prompts")[1:] == ["3 prompts"]
    server.archived.clear()
    assert "Argo kept nothing of it" in fine(server, "logs", "mine")[1]
    assert refused(server, "logs", "mine", "prepare-prompts").startswith("log of step prepare-prompts: its pod is not")
    assert refused(server, "logs", "mine", "publish").endswith("reached: prepare-prompts, train")


def test_a_run_that_failed_goes_on_where_it_ended(server: KfpServer) -> None:
    server.looks = [TRAINING]
    fine(server, "submit", "-r", "mine")
    [run] = server.runs
    assert refused(server, "retry", "mine").startswith("run mine: is not over (running); `drtune-pipeline cancel mine`")
    fine(server, "cancel", "mine")
    assert fine(server, "status", "mine")[0] == f"run mine: CANCELED, {run}"
    server.looks_again = [FAILED]
    assert fine(server, "retry", "mine")[0] == f"run mine: goes on, {run}"
    assert fine(server, "status", "mine")[0] == f"run mine: FAILED, {run}"  # this time nobody told it to end
    done = dict.fromkeys(["prepare-prompts", "train", "decide", "publish"], "SUCCEEDED")
    server.looks_again = [TRAINING, Look("SUCCEEDED", done)]
    assert fine(server, "retry", run, "--wait")[-1].startswith("run mine: published")
    assert server.requests.count(f"POST /apis/v2beta1/runs/{run}:retry") == 2
    assert refused(server, "retry", "mine") == (
        "run mine: succeeded, and nothing of it is left to do; submit another one"
    )


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

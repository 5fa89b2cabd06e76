"""What CI and readers are given to run: it parses, and every command in it exists and takes what it is given."""

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import kfp.cli.run
import pytest
import yaml
from click.testing import CliRunner
from kfp_server_api import ApiException

from pipelines.cli.main import main
from pipelines.server.client import connected
from tests.kfp_api import KfpServer
from tests.kfp_nodes import Look

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github" / "workflows" / "retrain.yml"
GITLAB = ROOT / "docs" / "ci" / "gitlab.yml"
GUIDE = ROOT / "docs" / "ci.md"
VARIABLES = {
    "DRTUNE_CODE_REVISION": "4a1b2c9",
    "RUN_NAME": "weekly-1",
    "PROMPTS": "data/sdxl.jsonl",
    "REGISTRY": "s3://models/drtune",
    "DRTUNE_REGISTRY": "s3://models/drtune",
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def scripts(path: Path) -> list[str]:
    """Everything that a shell is given."""
    match path:
        case _ if path == GITHUB:
            return [step["run"] for job in load(path)["jobs"].values() for step in job["steps"] if "run" in step]
        case _ if path == GITLAB:
            return [
                line
                for job in load(path).values()
                for line in job["before_script"] + job["script"] + job["after_script"]
            ]
    return re.findall(r"^    (drtune-pipeline .*?)(?:  #.*)?$", path.read_text(encoding="utf-8"), re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """The words of each call of drtune-pipeline, with its variables."""
    lines = "\n".join(scripts(path)).replace("\\\n", " ").splitlines()
    found = [re.search(r"drtune-pipeline ([^;]*)", line) for line in lines]
    return [shlex.split(Template(call[1]).substitute(VARIABLES)) for call in found if call]


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=lambda path: path.name)
def test_its_commands_work_in_their_order(path: Path) -> None:
    with KfpServer() as server:
        for words in commands(path):
            if words == ["compile"]:
                continue  # it would write into the repository
            if words[0] == "cancel":
                server.looks = [Look("RUNNING")]
            result = CliRunner().invoke(main, words, env=server.environment | VARIABLES)
            assert result.exit_code == 0, result.output
    [run] = server.runs.values()
    assert run["display_name"] == VARIABLES["RUN_NAME"]
    [name] = {version["display_name"] for version in server.versions.values()}
    # GitHub's is compiled with the digests of its images, which another build of the commit would not have.
    assert name == VARIABLES["RUN_NAME"] if path == GITHUB else name.endswith(f"-{VARIABLES['DRTUNE_CODE_REVISION']}")
    assert run["pipeline_version_reference"]["pipeline_version_id"] in server.versions
    assert run["runtime_config"]["parameters"]["registry"] == VARIABLES["DRTUNE_REGISTRY"]
    assert server.requests[-1].endswith(":terminate")


def kfp_commands() -> list[list[str]]:
    """The words behind each `kfp run submit` of the pages, in blocks and in sentences."""
    found = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"kfp run submit ([^`\n]*?)(?:  +#.*)?(?:`|$)", text, re.MULTILINE)
    return [shlex.split(command) for command in found]


def test_the_server_takes_every_command_of_kfp_that_a_page_shows() -> None:
    """By kfp's own parser, which makes a number of what looks like one, and the server's rule that text stays text."""
    calls = kfp_commands()
    assert calls
    with KfpServer() as server, connected(server.url, "kubeflow", None) as client:
        for words in calls:
            given = {"client": client, "output": "json"}
            result = CliRunner().invoke(kfp.cli.run.create, words, obj=given, catch_exceptions=False)
            assert result.exit_code == 0, (words, result.output)
        with pytest.raises(ApiException, match="requires type string"):
            CliRunner().invoke(kfp.cli.run.create, [*words, "name=1"], obj=given, catch_exceptions=False)
    assert len(server.runs) == len(calls)


def test_every_command_of_the_guide_gets_as_far_as_the_server() -> None:
    calls = commands(GUIDE)
    assert {"upload", "submit", "schedule", "status", "logs", "cancel"} <= {words[0] for words in calls}
    for words in calls:
        result = CliRunner().invoke(main, words, env={"KF_PIPELINES_ENDPOINT": "http://127.0.0.1:9"} | VARIABLES)
        assert "no answer" in result.stderr, result.output


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=lambda path: path.name)
def test_it_checks_before_it_uploads_and_waits_for_the_run(path: Path) -> None:
    [submit] = [words for words in commands(path) if words[0] == "submit"]
    names = [words[0] for words in commands(path)]
    assert names == ["compile", "compile", "upload", "submit", "cancel"]
    assert "--wait" in submit
    assert "--inline" not in submit  # its run is one of the version that was uploaded
    assert commands(path)[0] == ["compile", "--check"]  # before the names of images change it


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=lambda path: path.name)
def test_no_secret_stands_in_a_command_of_ours(path: Path) -> None:
    assert not any("--existing-token" in words for words in commands(path))
    assert "secrets." not in "\n".join(scripts(path))
    assert "EXISTING_TOKEN" not in "\n".join(scripts(path))


def test_github_runs_on_tags_on_a_schedule_and_by_hand_but_not_for_pull_requests() -> None:
    workflow = load(GITHUB)
    assert set(workflow[True]) == {"push", "schedule", "workflow_dispatch"}  # YAML takes `on` for a truth value
    assert workflow[True]["push"] == {"tags": ["v*"]}
    assert len(workflow[True]["schedule"][0]["cron"].split()) == 5
    tokens = [
        step["env"]["KFP_EXISTING_TOKEN"]
        for step in workflow["jobs"]["retrain"]["steps"]
        if "KFP" in str(step.get("env"))
    ]
    assert set(tokens) == {"${{ secrets.KFP_EXISTING_TOKEN }}"}


def test_waiting_ends_before_the_job_does() -> None:
    timeout = int(re.findall(r"--timeout (\d+)", GITHUB.read_text(encoding="utf-8"))[0])
    assert timeout < 60 * load(GITHUB)["jobs"]["retrain"]["timeout-minutes"]

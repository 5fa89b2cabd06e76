"""What CI runs of others is fixed by commit: a tag can be moved to other code."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EACH = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


@EACH
def test_every_action_is_named_by_its_commit_and_says_which_version_that_is(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@EACH
def test_a_workflow_may_do_no_more_than_it_says(path: Path) -> None:
    permissions = yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"]
    assert permissions["contents"] == "read"
    assert path.name == "retrain.yml" or set(permissions) == {"contents"}


def test_the_stories_workflow_installs_what_the_readme_of_the_stories_says() -> None:
    workflow = (ROOT / ".github" / "workflows" / "e2e.yml").read_text(encoding="utf-8")
    readme = (ROOT / "tests" / "cluster" / "README.md").read_text(encoding="utf-8")
    shell = re.findall(r"^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    commands = [line for block in shell for line in block.splitlines() if line.startswith(("kubectl", "kind"))]
    assert len(commands) >= 5
    for command in commands:
        assert command in workflow, command
    assert "pytest tests/cluster -n 3 --dist loadgroup -v" in workflow
    assert "pytest tests/cluster -n 3 --dist loadgroup -v" in readme


def test_what_the_stories_workflow_installs_from_elsewhere_is_named_by_commit() -> None:
    env = yaml.safe_load((ROOT / ".github" / "workflows" / "e2e.yml").read_text(encoding="utf-8"))["env"]
    commits = {name: value for name, value in env.items() if name.endswith("_COMMIT")}
    assert len(commits) == 3
    assert all(re.fullmatch("[0-9a-f]{40}", value) for value in commits.values())


def test_only_the_job_that_publishes_a_release_may_ask_for_a_token() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert [list(step) for step in jobs["publish"]["steps"]] == [["uses", "with"], ["uses"]]  # it runs nothing of ours

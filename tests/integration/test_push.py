"""A version goes to a hub by the real client, as a user's own command sends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.contracts import ADAPTER, EvaluationReport
from drtune.files.local import sha256_bytes
from drtune.publishing.registry import Registry
from tests.folders import make_folders, with_highlights
from tests.hub import TOKEN, Hub

NAME = "my-model"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """One with a version that has pictures."""
    made = make_folders(tmp_path / "made")
    made.report_on(with_highlights(EvaluationReport.load(made.report), made.report))
    Registry(str(tmp_path / "registry")).publish(NAME, *made)
    return tmp_path / "registry"


def push(hub: str, source: str | Path, registry: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads the hub's address once, when it is imported.

    Its Rust part, hf_xet, speaks to another server than the hub and is left out; files go as to any hub without it.
    """
    command = [sys.executable, "-m", "drtune.cli.main", "push", str(source), "me/tuned", "--registry", str(registry)]
    given = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN} | environment
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=250, check=False)


def test_a_version_is_pushed_whole_with_card_pictures_and_weights(registry: Path, tmp_path: Path) -> None:
    entry = Registry(str(registry)).show(NAME)
    with Hub() as hub:
        result = push(hub.url, NAME, registry)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"pushed: {hub.url}/me/tuned/commit/")
        files = hub.repositories["me/tuned"]
        assert files.keys() == entry.files.keys() - {"evaluation/scores.parquet"}
        for path, content in files.items():
            assert path == "README.md" or sha256_bytes(content) == entry.files[path], path
        assert {entry.files[ADAPTER], entry.files["before-after.png"]} == hub.large.keys()
        assert hub.commits == [f"{NAME} v1"]
        card = files["README.md"].decode()
        assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "diffusers"
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert "](before-after.png)" in card
        assert 'folder = "me/tuned"' in card

        # The folder of a run tells its version and its registry; nothing has changed since.
        run = tmp_path / "run"
        entry.save(run / "entry")
        assert push(hub.url, run, tmp_path / "elsewhere").returncode == 0
        assert hub.commits == [f"{NAME} v1"]


@pytest.mark.parametrize("case", ["wrong token", "no right", "no hub"])
def test_a_hub_that_does_not_take_it_is_one_line_without_the_token(case: str, registry: Path) -> None:
    with Hub(refuse_commits=case == "no right") as hub:
        url = "http://127.0.0.1:9" if case == "no hub" else hub.url
        result = push(url, NAME, registry, **({"HF_TOKEN": "hf_wrong"} if case == "wrong token" else {}))
        assert result.returncode == 2, result.stderr
        wanted = {
            "wrong token": f"error: hub {url}: refuses the token (401) for me/tuned; set HF_TOKEN to one",
            "no right": f"error: hub {url}: refuses the token (403) for me/tuned; set HF_TOKEN to one",
            "no hub": f"error: hub {url}: no answer (ConnectError); try again, or correct HF_ENDPOINT",
        }
        assert wanted[case] in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert "hf_wrong" not in result.stderr
        assert TOKEN not in result.stderr
        assert not hub.repositories.get("me/tuned")


def test_what_cannot_be_pushed_is_refused_in_one_line(registry: Path, tmp_path: Path) -> None:
    def refusal(source: str | Path, repository: str = "me/tuned", token: str = TOKEN) -> str:
        command = ["push", "--registry", str(registry), "--", str(source), repository]
        result = CliRunner().invoke(main, command, env={"HF_TOKEN": token})
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
        return result.output

    assert "HF_TOKEN: not set; export a token of the hub that may write to me/tuned" in refusal(NAME, token="")
    assert f"{NAME!r} has no version v7" in refusal(f"{NAME}@v7")
    for repository in ("tuned", "me/my tuned", "me/a/b", "-me/tuned"):
        assert f"repository {repository!r}: wanted user/name" in refusal(NAME, repository)
    assert "does not take me/a--b: Cannot have -- or .. in repo_id" in refusal(NAME, "me/a--b")
    (tmp_path / "refused").mkdir()
    assert "no RegistryEntry to read here" in refusal(tmp_path / "refused")

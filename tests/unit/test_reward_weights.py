"""Where the published rewards' weights come from: a mirror, or the hub's cache without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drtune.config import PUBLISHED
from drtune.errors import UserError
from drtune.rewards import load_reward
from drtune.rewards.weights import weights_of


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_of_the_mirror_is_told_with_the_command_that_gets_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    with pytest.raises(UserError, match=rf"reward {name}: DRTUNE_REWARDS={tmp_path} has no .*; run `hf download "):
        load_reward(name, antialias=True)


def in_a_process(code: str, cache: Path) -> str:
    """What a fresh process without a network prints: the hub's client reads its environment once, when imported."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    environment.pop("DRTUNE_REWARDS", None)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout


FETCH = """
from drtune.config import PUBLISHED
from drtune.errors import UserError
from drtune.rewards.weights import weights_of
try:
    print(*weights_of("hps", "xswu/HPSv2", "weights.pt", "md5:0cc175b9c0f1b6a831c399e269772661"))
except UserError as error:
    print(error)
"""


def test_a_file_that_the_hub_cannot_give_is_told_in_one_line(tmp_path: Path) -> None:
    printed = in_a_process(FETCH, tmp_path)
    assert printed.startswith(
        "reward hps: weights.pt of the hub's xswu/HPSv2 cannot be had (LocalEntryNotFoundError); "
    )
    assert "`hf download xswu/HPSv2 weights.pt`" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("a", "{snapshot}/weights.pt weights.pt md5 0cc175b9c0f1b6a831c399e269772661\n"),
        ("b", "reward hps: {snapshot}/weights.pt: is not the one that its publisher names"),
    ],
)
def test_a_file_of_the_hub_is_held_against_its_digest(tmp_path: Path, content: str, answer: str) -> None:
    repository = tmp_path / "hub" / "models--xswu--HPSv2"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "weights.pt").write_text(content)
    assert in_a_process(FETCH, tmp_path).startswith(answer.format(snapshot=snapshot))


def test_files_of_the_mirror_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    (tmp_path / "xswu" / "HPSv2").mkdir(parents=True)
    (tmp_path / "xswu" / "HPSv2" / "weights.pt").touch()
    path, told = weights_of("hps", "xswu/HPSv2", "weights.pt", "md5:another")
    assert path == tmp_path / "xswu" / "HPSv2" / "weights.pt"
    assert told == "weights.pt md5 d41d8cd98f00b204e9800998ecf8427e"

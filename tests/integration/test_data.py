"""The prompt sets of the repository: what a fresh clone pulls, offline, is what the generator writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from drtune.files.local import sha256_folder
from drtune.prompts.prepare import open_prompts, prepare

ROOT = Path(__file__).parents[2]
TRACKED = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "data.dvc", "dvc-store")


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data/ of a fresh clone after `dvc pull`."""
    clone = tmp_path_factory.mktemp("clone")
    for name in TRACKED:
        (clone / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, clone / name)
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    for command in (["git", "init"], [sys.executable, "-m", "dvc", "pull"]):
        subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    return clone / "data"


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_fresh_clone_pulls_exactly_what_the_generator_writes(pulled: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools/make_prompts.py", tmp_path], check=True)
    assert set(sha256_folder(pulled)) == {"miniature.jsonl", "sdxl.jsonl"}
    assert sha256_folder(pulled) == sha256_folder(tmp_path)


def test_the_sdxl_set_holds_four_styles_evenly(pulled: Path) -> None:
    counts = Counter((row["category"], row["split"]) for row in rows(pulled / "sdxl.jsonl"))
    assert counts == {
        (style, split): number
        for style in ("anime", "concept-art", "paintings", "photo")
        for split, number in (("train", 500), ("eval", 100))
    }


def test_the_miniature_set_holds_captions_of_one_and_of_two_objects(pulled: Path) -> None:
    counts = Counter(row["category"] for row in rows(pulled / "miniature.jsonl"))
    assert counts.total() == 1200
    assert set(counts) == {"one object", "two objects"}
    assert min(counts.values()) > 300


@pytest.mark.parametrize(("name", "num_train", "num_eval"), [("miniature", 1000, 200), ("sdxl", 2000, 400)])
def test_every_prompt_is_taken_and_stands_where_its_record_puts_it(
    pulled: Path, tmp_path: Path, name: str, num_train: int, num_eval: int
) -> None:
    prepared = prepare(pulled / f"{name}.jsonl", tmp_path / "out")
    assert (prepared.num_train, prepared.num_eval, prepared.problems) == (num_train, num_eval, {})
    assert prepared.near_duplicates == 0
    held_out = {row["text"] for row in rows(pulled / f"{name}.jsonl") if row["split"] == "eval"}
    assert {prompt.text for prompt in open_prompts(tmp_path / "out").eval} == held_out

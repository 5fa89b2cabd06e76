"""The README's commands work as they stand: run in order, in a folder with a smaller configuration of the same name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drtune.models.miniature.world import scenes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SMALL_CONFIG = """
batch_size: 2
sampler: {steps: 2}
method: {trained_steps: 1, early_stop: 1}
checkpoint_every: 60
sample_every: 200
evaluation: {max_prompts: 8, capability: {prompts: 0}, sampler: {steps: 2}, rewards: [symmetry, preference]}
"""
LENIENT_POLICY = """
min_prompts: 8
against: {base: {symmetry: {max_drop: 1.0}}}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The lines of all shell blocks, continued lines joined, without what is marked with what it needs."""
    lines = "".join(blocks("sh")).replace("\\\n", "").splitlines()
    return [line for line in lines if "# needs" not in line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "miniature.yaml").write_text(SMALL_CONFIG)
    (tmp_path / "configs" / "gate.yaml").write_text(LENIENT_POLICY)
    (tmp_path / "prompts.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=200)))
    return tmp_path


def run(command: list[str] | str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_drtune_command_works_in_the_order_of_the_readme(folder: Path) -> None:
    ours = [command for command in commands() if command.startswith("drtune ")]
    assert len(ours) >= 8
    said = [run(command, folder) for command in ours]
    assert "120 updates" in said[1]
    assert (folder / "runs" / "champion" / "README.md").exists()


@pytest.mark.slow
def test_the_python_example_works(folder: Path) -> None:
    [example] = blocks("python")
    (folder / "example.py").write_text(example)  # what has no file has no source, and its functions cannot be kept
    run([sys.executable, "example.py"], folder)
    assert (folder / "runs" / "warm" / "adapter" / "pytorch_lora_weights.safetensors").exists()
    assert "def warm(" in (folder / "runs" / "warm" / "rewards" / "warm.py").read_text()


def test_the_make_targets_exist() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for command in commands():
        if command.startswith("make "):
            run(command.replace("make ", "make -n ", 1), ROOT)


def test_no_other_command_stands_in_the_readme_untested() -> None:
    """dvc pull is tried in test_data.py, drtune-pipeline in test_pipeline.py and test_compiled.py."""
    rest = [command for command in commands() if not command.startswith(("drtune ", "make "))]
    assert rest == ["dvc pull", "drtune-pipeline compile --check"]


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(links) >= 6
    assert [link for link in links if not (ROOT / link).exists()] == []

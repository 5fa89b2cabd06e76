"""The wheel in an environment without the repository: the demo runs from what it brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.contracts import Decision

ROOT = Path(__file__).parents[2]
SHORT = ["steps=2", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "processes=1"]
SHORT += ["evaluation.max_prompts=8", "evaluation.pictures_per_prompt=1", "evaluation.sampler.steps=2"]
SHORT += ["evaluation.capability.prompts=8"]
OPTIONS = [f"--set={override}" for override in SHORT]


@pytest.mark.parametrize("name", ["miniature", "gate"])
def test_what_the_demo_brings_is_what_stands_in_configs(name: str) -> None:
    assert (ROOT / f"drtune/cli/demo/{name}.yaml").resolve() == ROOT / f"configs/{name}.yaml"


def test_the_demo_ends_with_a_decision_and_replaces_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["run-demo", f"--out={tmp_path / 'demo'}", *OPTIONS])
    assert result.exit_code == 1, result.output
    assert not Decision.load(tmp_path / "demo" / "decision").publish  # eight prompts are too few
    again = CliRunner().invoke(main, ["run-demo", f"--out={tmp_path / 'demo'}", *OPTIONS])
    assert (again.exit_code, "exists already" in again.output) == (2, True)


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", str(ROOT)], check=True
    )
    [wheel] = tmp_path.glob("drtune-*.whl")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([*pip, f"--python={python}", "install", "--no-deps", str(wheel)], check=True)
    [site] = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # what drtune depends on
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = [str(python), "-c", "import drtune, json; print(json.dumps(drtune.__path__))"]
    said = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(said.stdout) == [str(site / "drtune")]
    demo = [str(tmp_path / "venv" / "bin" / "drtune"), "run-demo", *OPTIONS]
    done = subprocess.run(demo, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("do not publish\n")
    assert (tmp_path / "runs" / "demo" / "decision" / "report.html").exists()

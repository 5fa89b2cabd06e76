"""A reward of your own through the whole way: command line, training, resume, evaluation elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from drtune.cli.main import main
from drtune.contracts import EvaluationReport, TunedModel
from drtune.files.local import sha256_file
from drtune.models.miniature.world import scenes

WARM = """
def warm(images, prompts):
    red, _green, blue = images.unbind(1)
    return (red - blue).mean((1, 2))
"""
SHORT = {
    "steps": 2,
    "batch_size": 2,
    "sampler.steps": 4,
    "method.trained_steps": 2,
    "method.early_stop": 2,
    "processes": 1,
    "evaluation.sampler.steps": 2,
    "evaluation.max_prompts": 4,
    "evaluation.capability.prompts": 0,
    "evaluation.rewards": "[brightness]",
}


def drtune(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def train(*arguments: str) -> Result:
    settings = [f"--set={key}={value}" for key, value in SHORT.items()]
    return drtune("train", "--prompts=captions.txt", "--out=model", *settings, *arguments)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=60)), encoding="utf-8")
    Path("warm.py").write_text(WARM, encoding="utf-8")
    return tmp_path


def test_a_reward_of_your_own_tunes_and_evaluates_also_from_another_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = train("--reward", "warm.py:warm=0.5", "--reward", "brightness", "--set", "rewards.brightness.target=0.4")
    assert ran.exit_code == 0, ran.output
    assert TunedModel.load("model").reward_files == {"rewards/warm.py": sha256_file("warm.py")}

    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ran = drtune("evaluate", "--model=../model", "--out=report")
    assert ran.exit_code == 0, ran.output
    report = EvaluationReport.load("report")
    assert report.trained_rewards == ("warm.py:warm", "brightness")
    provenance = {measure.name: measure.provenance for measure in report.measures if measure.is_reward}
    assert provenance == {"warm.py:warm": f"warm.py sha256 {sha256_file('../warm.py')}", "brightness": ""}
    assert provenance["warm.py:warm"] in Path("report/report.html").read_text(encoding="utf-8")

    (here / "model/rewards/warm.py").write_text("def warm(images, prompts): raise SystemExit\n", encoding="utf-8")
    ran = drtune("evaluate", "--model=../model", "--out=report", "--overwrite")
    assert (ran.exit_code, "warm.py: is not the one that the model's manifest names" in ran.stderr) == (2, True)


def test_a_run_goes_on_with_the_same_file_alone(here: Path) -> None:
    assert train("--reward", "warm.py:warm").exit_code == 0
    more = ("--reward", "warm.py:warm", "--set", "steps=3", "--resume")
    (here / "warm.py").write_text(WARM + "# another\n", encoding="utf-8")
    refused = train(*more)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1].startswith(
        "error: reward warm.py:warm: warm.py differs from model/rewards/warm.py"
    )
    (here / "warm.py").write_text(WARM, encoding="utf-8")
    resumed = train(*more)
    assert resumed.exit_code == 0, resumed.output
    assert TunedModel.load("model").step == 3


@pytest.mark.usefixtures("here")
def test_a_reward_that_is_none_is_refused_before_anything_is_written() -> None:
    ran = train("--reward", "warm.py:cold")
    assert ran.exit_code == 2
    assert ran.stderr.endswith("warm.py has no cold; name a function that is there\n")
    assert not Path("model").exists()

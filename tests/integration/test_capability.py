"""Compositional prompts in a whole evaluation: a tiny pipeline, a tiny vision-language model, a file of GenEval's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from drtune.cli.main import main
from drtune.contracts import ANSWERS, Decision, EvaluationReport
from drtune.evaluation.run import evaluate
from drtune.files.images import to_tensor
from drtune.prompts.compositional import read_tasks
from drtune.rewards import load_reward, score_finished
from tests.evaluations import ModelOf
from tests.evaluations import model_of as model_of
from tests.evaluations import prompts_folder as prompts_folder
from tests.unit.test_vqascore import write_mirror

LINES = [
    {
        "tag": "colors",
        "include": [{"class": noun, "count": 1, "color": colour}],
        "prompt": f"a photo of a {colour} {noun}",
    }
    for noun, colour in (("circle", "red"), ("star", "blue"), ("cup", "green"), ("dog", "pink"), ("key", "black"))
] + [
    {
        "tag": "counting",
        "include": [{"class": noun, "count": 2}],
        "exclude": [{"class": noun, "count": 3}],
        "prompt": f"a photo of two {noun}s",
    }
    for noun in ("circle", "star", "cup", "dog")
]


def test_the_judge_is_asked_for_each_thing_in_each_picture_and_the_gate_reads_the_answers(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mirror(tmp_path / "mirror")
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path / "mirror"))
    geneval = tmp_path / "evaluation_metadata.jsonl"
    geneval.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    few = ["evaluation.max_prompts=2", "evaluation.pictures_per_prompt=1", "evaluation.features=none"]
    asked = [f"evaluation.capability={{file: '{geneval}', prompts: 8}}"]
    out = tmp_path / "report"
    report = evaluate(model_of("sdxl"), prompts_folder, out, overrides=[*few, *asked])
    assert report.capability is not None
    assert (report.capability.judge, report.num_prompts) == ("vqascore", 2)
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in report.capability.provenance
    assert [(one.category, one.num_prompts) for one in report.capability.scores] == [
        (None, 8),
        ("colors", 4),
        ("counting", 4),
    ]
    answers = [json.loads(line) for line in (out / ANSWERS).read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 16
    tasks = {task.prompt: task for task in read_tasks(str(geneval))}
    reward = load_reward("vqascore", antialias=True)
    for answer in answers[::5]:
        with Image.open(out / "capability" / "images" / answer["contestant"] / answer["image"]) as picture:
            [statement] = tasks[answer["prompt"]].statements
            [wanted] = score_finished(reward, [picture], to_tensor([picture]), [statement]).tolist()
        assert answer["answers"] == pytest.approx({statement: wanted})
        assert answer["right"] == (wanted > 0.5)
    first = [out / "capability" / "images" / name / "0000-0.png" for name in ("base", "candidate")]
    apart = (to_tensor([Image.open(first[0])]) - to_tensor([Image.open(first[1])])).abs()
    assert 0 < apart.mean() < 0.5  # the same noise, and another model
    assert not (out / "capability" / "measured").exists()

    policy = tmp_path / "gate.yaml"
    policy.write_text("min_prompts: 8\nagainst: {base: {symmetry: {max_drop: 9}}}\ncapability: {margin: 0.9}")
    told = ["decide", f"--report={out}", f"--policy={policy}", f"--out={tmp_path / 'decision'}"]
    result = CliRunner().invoke(main, told)
    told_apart = "failed: capability: the base is right on 0 % of 8 prompts, no more than the margin 0.9: no loss"
    assert told_apart in result.output
    assert not Decision.load(tmp_path / "decision").publish  # two prompts are too few


def test_what_the_miniature_can_draw_is_judged_by_its_own_world(tmp_path: Path) -> None:
    torch.manual_seed(0)
    short = ["steps=1", "batch_size=2", "sampler.steps=2", "method.trained_steps=1", "method.early_stop=1"]
    short += ["processes=1", "evaluation.max_prompts=1", "evaluation.scale_curve.prompts=0"]
    short += ["evaluation.sampler.steps=8", "evaluation.capability.prompts=16", "evaluation.pictures_per_prompt=1"]
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red circle {place}" for place in range(40)))
    runner, run, options = CliRunner(), str(tmp_path / "run"), [f"--set={one}" for one in short]
    trained = runner.invoke(main, ["train", f"--prompts={tmp_path / 'prompts.txt'}", f"--out={run}", *options])
    assert trained.exit_code == 0, trained.output
    shown = runner.invoke(main, ["evaluate", f"--model={run}", f"--out={tmp_path / 'report'}"])
    assert shown.exit_code == 0, shown.output
    found = EvaluationReport.load(tmp_path / "report").capability
    assert found is not None
    assert found.scores[0].base >= 0.8  # at a learning rate of 2e-4 one update changes next to nothing
    assert (
        f"judged by probe: {found.scores[0].base:.0%} -> {found.scores[0].candidate:.0%} right, of 16" in shown.output
    )
    assert "What it can still draw" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")

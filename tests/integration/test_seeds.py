"""`drtune seeds run` on the miniature: short trainings, their evaluations, and what goes on where it was ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.config import load_config
from drtune.contracts import ANSWERS, EvaluationReport, SeedsResult, TunedModel
from drtune.errors import UserError
from drtune.evaluation.seeds import compare_seeds
from drtune.models.miniature.world import scenes
from tests.s3 import S3Server
from tests.stores import store_on
from tests.unit.test_seeds import sit_exam, write_report

SHORT = [
    "steps=1",
    "processes=1",
    "batch_size=2",
    "sampler.steps=2",
    "method.trained_steps=1",
    "method.early_stop=1",
    "evaluation={max_prompts: 8, pictures_per_prompt: 1, rewards: [brightness], sampler: {steps: 1}}",
    "evaluation.scale_curve.prompts=0",
    "evaluation.capability.prompts=8",
]


def test_seeds_are_trained_one_after_the_other_on_the_same_prompts_and_finished_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=90)))
    options = [f"--set={one}" for one in SHORT]
    command = ["seeds", "run", "--prompts=captions.txt", "--out=many", *options]
    ran = CliRunner().invoke(main, [*command, "--seeds=2,0"])
    assert ran.exit_code == 0, ran.output
    result = SeedsResult.load("many/result")
    assert [run.seed for run in result.runs] == [2, 0]
    models = [TunedModel.load(f"many/{seed}/model") for seed in (2, 0)]
    assert [model.weights_sha256 for model in models] == [run.weights_sha256 for run in result.runs]
    assert len({model.weights_sha256 for model in models}) == 2
    assert len({model.prompts.sha256 for model in models}) == 1
    assert [load_config(Path(f"many/{seed}/model/config.yaml")).seed for seed in (2, 0)] == [2, 0]
    assert {len(gain.by_seed) for gain in result.gains} == {2}
    symmetry, report = result.gain("symmetry"), EvaluationReport.load("many/0/report")
    score = report.score("symmetry")
    assert symmetry is not None
    assert score is not None
    assert symmetry.by_seed[1] == pytest.approx(score.gain)
    capability = result.gain("capability")
    assert capability is not None
    assert report.capability is not None
    assert capability.by_seed[1] == pytest.approx(report.capability.scores[0].difference)
    assert "drtune decide --report many/2/report --seeds many/result" in ran.output

    kept = Path("many/0/report/manifest.json").stat().st_mtime_ns
    shutil.rmtree("many/2/report")
    again = CliRunner().invoke(main, [*command, "--seeds=2,0"])
    assert again.exit_code == 0, again.output
    assert Path("many/0/report/manifest.json").stat().st_mtime_ns == kept
    assert SeedsResult.load("many/result").gains == result.gains


def test_reports_are_compared_where_they_lie_on_s3(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = store_on(s3_server)
    for seed in (0, 1):
        exam = sit_exam(tmp_path / str(seed), [1] * 8, [1] * 6 + [0] * 2)
        write_report(tmp_path / str(seed), seed, [0.1 + 0.01 * place for place in range(8)], capability=exam)
        for name in ("manifest.json", "config.yaml", "scores.parquet", ANSWERS):
            store.write(f"{seed}/report/{name}", (tmp_path / str(seed) / name).read_bytes())
    places = [f"{store.uri}/{seed}/report" for seed in (0, 1)]
    compared = CliRunner().invoke(main, ["seeds", "compare", *places, f"--out={tmp_path / 'result'}"])
    assert compared.exit_code == 0, compared.output
    gain, capability, _, counting = SeedsResult.load(tmp_path / "result").gains
    assert gain.by_seed == pytest.approx((0.135, 0.135))
    assert (capability.by_seed, counting.by_seed) == ((-0.25, -0.25), (-0.5, -0.5))
    with pytest.raises(UserError, match=r"/2/report/manifest\.json: is not there; give the folder of an evaluation"):
        compare_seeds([places[0], f"{store.uri}/2/report"], tmp_path / "other")

"""Training runs on the miniature: their ends, early ends and new beginnings, and what they leave."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from drtune.cli.main import main
from drtune.config import load_config
from drtune.contracts import MANIFEST, TunedModel, read_curve
from drtune.errors import InterruptionError, UserError
from drtune.files.local import sha256_file, sha256_folder
from drtune.files.output import mark
from drtune.models.loading import load_base
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.history import UpdateMetrics, read_metrics
from drtune.training.optimization import learning_rate
from drtune.training.processes import Processes
from drtune.training.run import Trainer
from drtune.training.trainer import train
from tests.trainings import SHORT, trainer_of

DARKER = [
    *SHORT,
    "steps=6",
    "rewards={brightness: -1.0}",
    "optimizer.learning_rate=1e-3",
    "sample_every=1",
    "checkpoint_every=1",
    "keep_checkpoints=1",
]
"""Pictures become darker with every update."""


REPEATING = ["batch_size=6", "rewards={symmetry: 1, preference: 1}"]
"""With `few_prompts`: in the fourth batch are prompts that a run has seen before, and a resumed one has not."""


@pytest.fixture(scope="module")
def few_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen to learn from, which repeat in the fourth batch of six."""
    folder = tmp_path_factory.mktemp("few")
    rows = [
        {"text": scene.caption, "split": "train" if number < 19 else "eval"}
        for number, scene in enumerate(scenes(seed=8, count=23))
    ]
    (folder / "few.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(folder / "few.jsonl", folder / "set")
    return folder / "set"


class InterruptedTrainer(Trainer):
    """SIGTERM comes as the last update that it is to make begins."""

    last_update = 0

    def update(self, step: int) -> UpdateMetrics:
        if step == self.last_update:
            signal.raise_signal(signal.SIGTERM)
        return super().update(step)


def interrupted_after(update: int, overrides: list[str], prompts: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    mark(out, "TrainingRun")
    trainer = InterruptedTrainer(load_config(None, overrides), open_prompts(prompts), out, Processes())
    trainer.last_update = update
    said = rf"SIGTERM after update {update} of .* go on with: drtune train .*--resume$"
    with pytest.raises(InterruptionError, match=said):
        trainer.run()


@pytest.fixture(scope="module")
def finished(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one update, to be copied."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(load_config(None, [*SHORT, "steps=1"]), prompts, out)
    return out


OWN = ("seconds", "at", "memory", "resumed")


def logged(out: Path) -> list[dict[str, object]]:
    """metrics.jsonl without what no two runs share: times, memory, and where a run was started again."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OWN} for line in lines]


def command_of(overrides: list[str], prompts: Path) -> list[str]:
    options = [f"--set={override}" for override in overrides]
    return [sys.executable, "-m", "drtune.cli.main", "train", f"--prompts={prompts}", "--set=processes=1", *options]


def start_and_wait_for(update: int, command: list[str], out: Path) -> subprocess.Popen[str]:
    """A run in a process of its own that has just logged that update."""
    run = subprocess.Popen([*command, f"--out={out}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < update:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    return run


@pytest.mark.parametrize("weights", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(
    few_prompts: Path, tmp_path: Path, weights: str
) -> None:
    """Weights, optimizer, average, held-out checks: equal states make checkpoints of equal names."""
    schedule = ["optimizer.schedule=cosine", "optimizer.warmup_steps=1", "ema_decay=0.5", "sample_every=2"]
    overrides = [
        *SHORT,
        *REPEATING,
        *schedule,
        f"weights={weights}",
        "other_sizes=[40x24, 24x40]",
        "steps=4",
        "held_out.reward=brightness",
        "held_out.max_drop=1",
    ]
    config = load_config(None, overrides)
    whole = train(config, few_prompts, tmp_path / "whole")
    interrupted_after(3, overrides, few_prompts, tmp_path / "parts")
    assert not (tmp_path / "parts" / MANIFEST).exists()
    parts = train(config, few_prompts, tmp_path / "parts", resume=True)
    assert parts == whole
    names = [sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir()) for run in ("whole", "parts")]
    assert names[0][-1] == names[1][-1]
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    updates = read_metrics(tmp_path / "parts")
    assert [update.learning_rate for update in updates] == [
        learning_rate(config.optimizer, step, 4) for step in (1, 2, 3, 4)
    ]
    assert [update.resumed for update in updates] == [False, False, False, True]


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_updates(prompts: Path, tmp_path: Path) -> None:
    whole = train(load_config(None, [*SHORT, "steps=4"]), prompts, tmp_path / "whole")
    train(load_config(None, [*SHORT, "steps=2"]), prompts, tmp_path / "parts")
    more = train(load_config(None, [*SHORT, "steps=4"]), prompts, tmp_path / "parts", resume=True)
    assert more == whole


def test_while_a_finished_run_goes_on_no_manifest_stands_beside_the_new_configuration(
    finished: Path, prompts: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    interrupted_after(2, [*SHORT, "steps=3"], prompts, tmp_path)
    assert load_config(tmp_path / "config.yaml").steps == 3
    assert not (tmp_path / MANIFEST).exists()


def test_a_finished_run_is_left_as_it_is(finished: Path, prompts: Path, tmp_path: Path) -> None:
    config = load_config(None, [*SHORT, "steps=1"])
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    first = TunedModel.load(tmp_path)
    before = sha256_folder(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        train(config, prompts, tmp_path)
    assert train(config, prompts, tmp_path, resume=True) == first
    assert sha256_folder(tmp_path) == before


@pytest.mark.parametrize(
    "failing",
    [
        ["base_model=/nowhere"],
        ["optimizer.refused_grad_norm=1e-9", "held_out={reward: brightness, max_drop: 1}"],
    ],
)
def test_a_run_that_fails_before_its_first_update_is_done_replaces_nothing(
    failing: list[str], finished: Path, prompts: Path, tmp_path: Path
) -> None:
    """The second one has a checkpoint of its start by then."""
    shutil.copytree(finished, tmp_path / "out")
    before = sha256_folder(tmp_path)
    for place, overwrite in (("out", True), ("new", False)):
        with pytest.raises(UserError, match=r"nowhere|refused_grad_norm"):
            train(load_config(None, [*SHORT, *failing]), prompts, tmp_path / place, overwrite=overwrite)
    assert sha256_folder(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_command_that_fails_before_its_first_update_leaves_prompts_as_they_were(
    finished: Path, prompts: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    shutil.copytree(prompts, tmp_path / "out.prompts")
    (tmp_path / "other.txt").write_text("".join(f"a red circle, {number}\n" for number in range(30)))
    before = sha256_folder(tmp_path)
    command = ["train", f"--prompts={tmp_path / 'other.txt'}", "--set=processes=1", "--set=height=30"]
    for options in (["--out=new"], ["--out=new", "--resume"], ["--out=out", "--overwrite"]):
        place = options[0].replace("=", f"={tmp_path}/")
        failed = CliRunner().invoke(main, [*command, place, *options[1:]])
        assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)
        assert "height=30: give a multiple of" in failed.stderr
        assert sha256_folder(tmp_path) == before


def test_a_run_that_replaces_another_is_as_one_in_an_empty_place(finished: Path, prompts: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    config = load_config(None, [*SHORT, "steps=1", "seed=3", "held_out={reward: brightness, max_drop: 1}"])
    assert train(config, prompts, tmp_path / "out", overwrite=True) == train(config, prompts, tmp_path / "new")
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (tmp_path / "out", tmp_path / "new")
    ]
    one, other = ({path for path in paths if path.parts[0] != "tensorboard"} for paths in files)
    assert one == other
    assert len([path for path in one if path.parent.name == "checkpoints"]) == 2


def test_a_run_that_cannot_be_resumed_so_is_left_as_it_is(prompts: Path, tmp_path: Path) -> None:
    train(load_config(None, [*SHORT, "steps=2"]), prompts, tmp_path)
    before = sha256_folder(tmp_path)
    with pytest.raises(UserError, match=r"optimizer\.learning_rate \(0\.5 here, 0\.0002 there\)") as refusal:
        train(load_config(None, [*SHORT, "steps=3", "optimizer.learning_rate=0.5"]), prompts, tmp_path, resume=True)
    assert "sampler.steps" not in str(refusal.value)
    with pytest.raises(UserError, match="has done 2 already"):
        train(load_config(None, [*SHORT, "steps=1"]), prompts, tmp_path, resume=True)
    assert sha256_folder(tmp_path) == before


def test_resume_without_a_checkpoint_starts_from_the_beginning(prompts: Path, tmp_path: Path) -> None:
    assert train(load_config(None, [*SHORT, "steps=1"]), prompts, tmp_path / "new", resume=True).step == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(few_prompts: Path, tmp_path: Path) -> None:
    overrides = [*SHORT, *REPEATING, "steps=6", "sample_every=6"]
    whole = train(load_config(None, overrides), few_prompts, tmp_path / "whole")
    run = start_and_wait_for(3, command_of(overrides, few_prompts), tmp_path / "killed")
    run.kill()
    run.communicate()
    assert not (tmp_path / "killed" / MANIFEST).exists()
    assert train(load_config(None, overrides), few_prompts, tmp_path / "killed", resume=True) == whole
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_saves_the_update_under_way_and_says_once_how_to_go_on(
    prompts: Path, tmp_path: Path, processes: int
) -> None:
    command = command_of([*SHORT, "steps=10000", "checkpoint_every=10000", f"processes={processes}"], prompts)
    run = start_and_wait_for(2, command, tmp_path / "out")
    run.terminate()
    _, errors = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert errors.count("go on with: drtune train") == 1
    assert "Traceback" not in errors
    done = len(logged(tmp_path / "out"))
    assert f"stopped by SIGTERM after update {done} of 10000" in errors
    assert [path.name[:11] for path in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step-{done:06d}"]


def test_the_adapter_gives_the_tuned_model_to_plain_diffusers(prompts: Path, tmp_path: Path) -> None:
    """Alpha differs from the rank, which a LoRA without metadata would lose."""
    overrides = [*SHORT, "steps=2", "lora.rank=4", "lora.alpha=16", "optimizer.learning_rate=1e-2"]
    trainer = trainer_of([*overrides, "evaluation.sampler={steps: 6, guidance_scale: 3}"], prompts, tmp_path / "out")
    trainer.run()
    ours = trainer.samples.draw()
    noise = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(n)) for n in trainer.samples.seeds]
    )
    plain = load_base("miniature").pipeline
    arguments = {"num_inference_steps": 6, "guidance_scale": 3.0, "latents": noise, "output_type": "pt"}
    before = plain(trainer.samples.texts, **arguments).images
    plain.load_lora_weights(tmp_path / "out" / "adapter")
    after = plain(trainer.samples.texts, **arguments).images
    assert (after - ours).abs().max() <= 1e-3
    assert (after - before).abs().max() > 0.05


@pytest.mark.slow
def test_the_run_ends_early_with_the_last_state_that_passed_the_held_out_check(prompts: Path, tmp_path: Path) -> None:
    (light := tmp_path / "light.py").write_text("def light(images, prompts):\n    return images.mean((1, 2, 3))\n")
    overrides = [*DARKER, f"held_out={{reward: {light}:light, max_drop: 0.1}}"]
    early = train(load_config(None, overrides), prompts, tmp_path / "early")
    values = [update.held_out or 0.0 for update in read_metrics(tmp_path / "early")]
    assert 2 <= early.step == len(values) - 1 < 6
    assert values[-1] < min(values[:-1]) - 0.03
    assert f"saved is the state after update {early.step}" in (tmp_path / "early" / "summary.md").read_text()

    shorter = [*DARKER, f"steps={early.step}"]
    whole = train(load_config(None, shorter), prompts, tmp_path / "whole")
    assert (early.weights_sha256, early.reward) == (whole.weights_sha256, whole.reward)

    interrupted_after(early.step, overrides, prompts, tmp_path / "resumed")
    assert train(load_config(None, overrides), prompts, tmp_path / "resumed", resume=True) == early


def test_all_rewards_whose_weights_are_there_judge_the_samples_on_the_way(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))  # which has none
    own = "sample_prompts=[a red circle, a blue square]"
    overrides = [*DARKER, "steps=2", own, "evaluation.rewards=[preference, hps]"]
    train(load_config(None, overrides), prompts, tmp_path / "run")
    base, first, last = (point.rewards for point in read_curve(tmp_path / "run"))
    assert set(base) == set(last) == {"brightness", "preference"}
    assert 0.9 > base["brightness"] > first["brightness"] > last["brightness"] > 0.1
    assert "hps does not judge the samples: " in capsys.readouterr().out
    with Image.open(tmp_path / "run" / "samples" / "step-000002.png") as sheet:
        assert sheet.width == 2 * 256 + 4
    assert (tmp_path / "run" / "curve.svg").read_text(encoding="utf-8").count("<polyline") == 2


def test_a_mirror_that_cannot_be_written_to_is_refused_before_the_training(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/mirror.*Not a directory"):
        train(load_config(None, SHORT), prompts, tmp_path / "out", mirror=str(tmp_path / "file" / "mirror"))
    assert not (tmp_path / "out").exists()


def test_a_model_is_what_its_manifest_says(prompts: Path, tmp_path: Path) -> None:
    model = train(load_config(None, [*SHORT, "steps=1"]), prompts, tmp_path)
    assert TunedModel.load(tmp_path) == model
    assert model.weights_sha256 == sha256_file(tmp_path / model.weights_file)
    assert model.config_sha256 == sha256_file(tmp_path / "config.yaml")
    assert model.step == 1


def test_a_finished_run_whose_weights_are_gone_is_made_whole_by_its_checkpoint(
    finished: Path, prompts: Path, tmp_path: Path
) -> None:
    config = load_config(None, [*SHORT, "steps=1"])
    shutil.copytree(finished, tmp_path / "out")
    model = TunedModel.load(tmp_path / "out")
    weights = tmp_path / "out" / model.weights_file
    weights.unlink()
    assert train(config, prompts, tmp_path / "out", resume=True).weights_sha256 == model.weights_sha256
    assert sha256_file(weights) == model.weights_sha256

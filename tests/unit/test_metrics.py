"""The log of a run, and what a summary makes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from drtune.config import Config, load_config
from drtune.contracts import CurvePoint, read_curve
from drtune.errors import UserError
from drtune.files.local import write_text
from drtune.files.progress import Progress
from drtune.training.checks import check_start
from drtune.training.history import UpdateMetrics, mean_reward, read_metrics
from drtune.training.metrics import MetricLog
from drtune.training.summary import resume_command, summarise
from drtune.training.update import most_memory
from drtune.training.watch import state_of
from tests.reports import tuned_model

CONFIG = load_config(None, ["steps=6", "rewards.symmetry=1.0", "rewards.preference.weight=0.5"])


def update(step: int, held_out: float | None = None) -> UpdateMetrics:
    return UpdateMetrics(
        step=step,
        reward=step / 10,
        rewards={"symmetry": step / 20, "preference": step / 10},
        grad_norm=2.0,
        learning_rate=1e-4,
        stop=11,
        trained=(2, 5),
        seconds=1.5,
        at=1e9 + 2 * step,
        held_out=held_out,
    )


def log_of(folder: Path, start: int) -> MetricLog:
    return MetricLog(folder, start, CONFIG, Progress("train", CONFIG.steps, "update", done=start))


def summary(
    config: Config,
    updates: list[UpdateMetrics],
    step: int,
    held_out: dict[int, float],
    points: Sequence[CurvePoint] = (),
) -> str:
    out, prompts = Path("runs/my model"), Path("runs/prompts")
    return summarise(tuned_model(step=step), config, updates, points, held_out, out, prompts)


def test_what_is_logged_is_read_back_equal(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        log.write(update(1))
        log.write(update(2, held_out=0.25))
    assert read_metrics(tmp_path) == log.updates == [update(1), update(2, held_out=0.25)]


def test_a_resumed_log_forgets_what_came_after_the_checkpoint_and_a_line_cut_short(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(update(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    with log_of(tmp_path, 2) as log:
        log.write(update(3))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        log.write(update(1))
    for garbage in (b"\xff\xfe\n", b"[]\n", b'{"step": "one"}\n', b"[" * 5000 + b"\n", b"null\n"):
        whole = (tmp_path / "metrics.jsonl").read_bytes()
        (tmp_path / "metrics.jsonl").write_bytes(whole + garbage)
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged \(.*\); start again with --overwrite"):
            read_metrics(tmp_path)
        (tmp_path / "metrics.jsonl").write_bytes(whole)
    (tmp_path / "curve.jsonl").write_text('{"step": "one", "rewards": {}}\n')
    with pytest.raises(UserError, match=r"curve\.jsonl: line 1 is damaged \(step: .* integer.*\); take the file away"):
        read_curve(tmp_path)


def test_tensorboard_has_every_number_and_the_samples(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        point = CurvePoint(step=0, rewards={"symmetry": 0.75, "my.py:warm": 0.5})
        log.samples(point, [Image.new("RGB", (8, 8), "red")] * 3, ["a circle"] * 3)
        log.write(update(1))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = {tag: board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]}
    expected = {
        "train/reward": 0.1,
        "train/grad_norm": 2.0,
        "train/learning_rate": 1e-4,
        "train/seconds": 1.5,
        "samples/symmetry": 0.75,
        "samples/my.py:warm": 0.5,
        "reward/symmetry": 0.05,
        "reward/preference": 0.1,
    }
    assert scalars == pytest.approx(expected)
    assert board.Tags()["images"] == ["samples"]


def test_mlflow_has_one_run_that_goes_on_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database, as servers have, is no part of it
    for start, steps in ((0, 6), (1, 9)):  # MLflow refuses to change what it has
        config = load_config(None, [f"steps={steps}", "mlflow_experiment=mine"])
        with MetricLog(tmp_path, start, config, Progress("train", config.steps, "update", done=start)) as log:
            point = CurvePoint(step=start, rewards={"symmetry": 0.75, "my.py:warm": 0.5})
            log.samples(point, [Image.new("RGB", (8, 8), "red")] * 3, ["a circle"] * 3)
            log.write(update(start + 1))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow-id.txt").read_text()
    rewards = client.get_metric_history(run.info.run_id, "train/reward")
    assert [(one.step, one.value) for one in rewards] == [(1, 0.1), (2, 0.2)]
    assert run.data.metrics["samples/symmetry"] == 0.75
    assert run.data.params["steps"] == "6"
    shown = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "samples")]
    assert shown == ["samples/step-000000.png", "samples/step-000001.png"]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="Weights & Biases is installed here")
def test_a_log_that_cannot_be_written_is_refused_at_once() -> None:
    check_start(CONFIG)
    with pytest.raises(UserError, match=r"wandb_project=mine: .* not installed: pip install wandb"):
        check_start(load_config(None, ["wandb_project=mine"]))


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed here")
def test_mlflow_that_is_not_installed_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"mlflow_experiment=mine: MLflow is not installed: pip install mlflow-skinny"):
        check_start(load_config(None, ["mlflow_experiment=mine"]))


def test_the_mean_reward_is_that_of_the_last_ten_updates() -> None:
    assert mean_reward([update(step) for step in range(1, 21)]) == pytest.approx(1.55)
    assert mean_reward([update(1)]) == pytest.approx(0.1)


def test_a_summary_sets_the_first_updates_beside_the_last() -> None:
    page = summary(CONFIG, [update(step) for step in range(1, 7)], 6, {})
    assert "6 updates of 8 prompts by drtune in 0:00:09, 1.50 s each, without" in page
    assert "|                        | first 3 | last 3 |" in page
    assert "| reward, the sum        |     0.2 |    0.5 |" in page
    assert "| preference, weight 0.5 |     0.2 |    0.5 |" in page
    assert "early" not in page
    assert "`drtune train '--config=runs/my model/config.yaml'" in page
    assert "--set=steps=12`" in page


def test_a_summary_sets_the_samples_of_the_base_beside_those_of_what_is_saved() -> None:
    points = [
        CurvePoint(step=0, rewards={"symmetry": 0.5, "my.py:warm_light": 0.25, "preference": 1.0}),
        CurvePoint(step=4, rewards={"symmetry": 0.75, "my.py:warm_light": 0.125}),
        CurvePoint(step=6, rewards={"symmetry": 0.0, "my.py:warm_light": 0.0}),
    ]
    page = summary(CONFIG, [update(step) for step in range(1, 7)], 4, {}, points)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["", "the base", "after 4"] in rows
    assert ["symmetry, tuned on", "0.5", "0.75"] in rows
    assert ["warm\\_light", "0.25", "0.125"] in rows
    assert ["preference, tuned on", "1", "not finite"] in rows
    assert "](curve.svg)" in page
    assert "curve.svg" not in summary(CONFIG, [update(1)], 1, {}, points[:1])


def test_a_resumed_curve_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    points = [CurvePoint(step=step, rewards={"symmetry": step / 10}) for step in (0, 2, 4)]
    for start, shown, left in ((0, points, (0, 2, 4)), (2, points[2:], (0, 2, 4)), (2, [], (0, 2)), (0, [], ())):
        with log_of(tmp_path, start) as log:
            for point in shown:
                log.samples(point, [Image.new("RGB", (8, 8))], ["a circle"])
        assert [point.step for point in read_curve(tmp_path)] == [*left]


def test_a_summary_of_an_early_end_says_what_is_saved_and_why() -> None:
    config = load_config(None, ["steps=6", "held_out.reward=preference", "held_out.max_drop=0.1", "sample_every=2"])
    updates = [update(1), update(2, held_out=0.5), update(3), update(4, held_out=0.3)]
    page = summary(config, updates, 2, {0: 0.55, 2: 0.5})
    assert "Ended early because the held-out reward fell; saved is the state after update 2." in page
    assert "- the base: 0.55\n- after update 2: 0.5 (saved)\n- after update 4: 0.3\n" in page
    assert "--resume" not in page


def test_a_summary_says_when_nothing_but_the_base_passed() -> None:
    config = load_config(None, ["steps=6", "held_out.reward=preference", "held_out.max_drop=0.1", "sample_every=1"])
    page = summary(config, [update(1, held_out=0.3)], 0, {0: 0.55})
    assert "saved is the base, unchanged." in page
    assert "- the base: 0.55 (saved)\n- after update 1: 0.3\n" in page


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ([], "the base"),
        (["lora.init=gaussian"], "the base"),
        (["lora.init=style.safetensors"], "the adapter it began from"),
    ],
)
def test_update_0_is_called_what_the_run_began_from(settings: list[str], first: str, tmp_path: Path) -> None:
    held_out = ["held_out.reward=preference", "held_out.max_drop=0.1", "sample_every=1"]
    config = load_config(None, ["steps=6", *held_out, *settings])
    points = [CurvePoint(step=step, rewards={"symmetry": 0.5}) for step in (0, 1)]
    page = summary(config, [update(1, held_out=0.3)], 0, {0: 0.55}, points)
    assert f"saved is {first}, unchanged." in page
    assert f"- {first}: 0.55 (saved)\n" in page
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["", first, "after 0"] in rows
    write_text(tmp_path / "config.yaml", config.to_yaml())
    with MetricLog(tmp_path, 0, config, Progress("train", 6, "update")) as log:
        log.write(update(1))
        assert log.begun_from == first
    assert state_of(tmp_path, 0.0)["began"] == first.capitalize()


def test_memory_is_in_bytes_where_the_system_counts_it_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = {}
    for platform in ("darwin", "linux"):
        monkeypatch.setattr(sys, "platform", platform)
        told[platform] = most_memory()
    assert told["linux"] == pytest.approx(1024 * told["darwin"], rel=0.1)


def test_a_cosine_run_is_not_to_be_gone_on_with() -> None:
    config = load_config(None, ["steps=6", "optimizer.schedule=cosine"])
    assert "--resume" not in summary(config, [update(step) for step in range(1, 7)], 6, {})


def test_the_command_that_resumes_needs_nothing_but_the_folders() -> None:
    command = "drtune train --config=runs/a/config.yaml --prompts=runs/p --out=runs/a --resume"
    assert resume_command(Path("runs/a"), Path("runs/p")) == command

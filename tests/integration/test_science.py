"""One training of the study, at its smallest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from drtune.methods.plans import Plan
from science.cell import WindowTrainer, config_of, is_done, run_cell
from science.costs import Gradients
from science.design import LEFT_HALF, WINDOWS, Cell, Scale

SCALE = Scale(updates=2, checks=(1, 2), prompts=2, pictures=2)


def test_a_training_leaves_a_record_by_which_it_is_not_run_again(prompts: Path, tmp_path: Path) -> None:
    cell = Cell("left half", ("method.name=refl",), 1e-3, 1, deployed=True)
    assert not is_done(cell, SCALE, tmp_path)
    run_cell(cell, SCALE, prompts, tmp_path)
    assert is_done(cell, SCALE, tmp_path)
    assert not is_done(cell, replace(SCALE, checks=(1, 2, 3), updates=3), tmp_path)

    record = json.loads((tmp_path / f"{cell.name}.json").read_text())
    assert [(check["update"], check["guidance"]) for check in record["checks"]] == [
        (0, 1),
        (0, 3),
        (1, 1),
        (2, 1),
        (2, 3),
    ]
    base, _, first, last, _ = (check["measures"] for check in record["checks"])
    assert base["drift"] == pytest.approx(0, abs=1e-6)
    assert 0 < first["drift"] < last["drift"]
    assert last[LEFT_HALF] > base[LEFT_HALF]
    with Image.open(tmp_path / f"{cell.name}.png") as sheet:
        assert sheet.size == (2 * 32, 3 * 32)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_window_trains_only_its_steps_in_a_whole_chain(
    window: tuple[int, ...], prompts: Path, tmp_path: Path
) -> None:
    config = config_of(Cell("symmetry", (), 1e-3, 1), SCALE)
    trainer = WindowTrainer(window, config, prompts, tmp_path)
    assert trainer.plan(1) == Plan(stop=11, trained=window, alpha=0.0)
    assert trainer.update(1).grad_norm > 0


@pytest.mark.slow
def test_a_measurement_is_done_until_it_is_another(tmp_path: Path) -> None:
    measurement = Gradients("symmetry", 2, batches=2)
    assert not measurement.is_done(tmp_path)
    measurement.run(tmp_path)
    assert measurement.is_done(tmp_path)
    assert not replace(measurement, batches=4).is_done(tmp_path)
    found = measurement.found(tmp_path)
    assert found.keys() == {"0.0", "0.5", "1.0"}
    for alpha in found.values():
        assert [len(alpha["norm"]), len(alpha["agreement"])] == [2, 1]
        assert min(alpha["norm"]) > 0
        assert abs(alpha["agreement"][0]) < 1

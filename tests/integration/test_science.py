"""One training of the study, at its smallest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from drtune.methods.plans import Plan
from science.arms import WAYS, Arm, Cell, Scale
from science.cell import WindowTrainer, config_of, is_done, run_cell
from science.costs import Gradients
from science.exam import MEASURES
from science.flops import Flops
from science.records import Study, collect

SCALE = Scale(updates=2, checks=(1, 2), rates=(1e-3,), seeds=1, prompts=2)


def test_a_training_leaves_a_record_by_which_it_is_not_run_again(prompts: Path, tmp_path: Path) -> None:
    arm = Arm("left half + preference", "ReFL")
    cell, cells = Cell(arm, 1e-3, 0), tmp_path / "cells"
    cells.mkdir()
    assert not is_done(cell, SCALE, cells)
    run_cell(cell, SCALE, prompts, cells)
    assert is_done(cell, SCALE, cells)
    assert not is_done(cell, replace(SCALE, checks=(1, 2, 3), updates=3), cells)
    with Image.open(cells / f"{cell.name}.png") as sheet:
        assert sheet.size == (32, 3 * 32)  # the one prompt that reports

    costs = tmp_path / "costs"
    costs.mkdir()
    (costs / f"{Flops.of(arm).name}.json").write_text(json.dumps({"found": {"flops": 1e9}}))
    study = collect([cell], SCALE, tmp_path, Study(SCALE, {}, {}))
    record = study.records[cell]
    assert record.checks_C.tolist() == [0, 1, 2]
    assert record.reporting_CPM.shape == (3, 1, len(MEASURES))
    drift = record.choosing_CM[:, MEASURES.index("drift")]
    assert drift[0] == pytest.approx(0, abs=1e-6)
    assert 0 < drift[1] < drift[2]
    assert record.seconds > 0


@pytest.mark.parametrize("way", ["earliest steps", "latest steps"])
def test_a_window_trains_only_its_steps_in_a_whole_chain(way: str, prompts: Path, tmp_path: Path) -> None:
    config = config_of(Cell(Arm("symmetry", way), 1e-3, 1), SCALE)
    trainer = WindowTrainer(WAYS[way].window, config, prompts, tmp_path)
    assert trainer.plan(1) == Plan(stop=11, trained=WAYS[way].window, alpha=0.0)
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


@pytest.mark.slow
def test_operations_grow_with_what_trains() -> None:
    last, last_four = (replace(Flops.of(Arm("symmetry", way)), updates=1) for way in ("DRaFT-1", "DRaFT-4"))
    assert 1e9 < last.measure()["flops"] < last_four.measure()["flops"]

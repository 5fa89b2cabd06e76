"""One training of the study, at its smallest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from drtune.miniature.world import scenes
from drtune.prompts import prepare
from science.cell import is_done, run_cell
from science.costs import Gradients
from science.design import LEFT_HALF, WINDOWS, Cell, Scale

SCALE = Scale(updates=2, checks=(1, 2), prompts=2, pictures=2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PromptSet with a few held-out prompts."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=120)))
    prepare(folder / "captions.txt", folder / "prompts")
    return folder / "prompts"


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


def test_a_window_trains_only_its_steps(prompts: Path, tmp_path: Path) -> None:
    cells = [Cell("symmetry", (), 1e-3, 1, window=window) for window in WINDOWS.values()]
    for cell in cells:
        run_cell(cell, SCALE, prompts, tmp_path)
    records = [json.loads((tmp_path / f"{cell.name}.json").read_text()) for cell in cells]
    first_rewards = {record["updates"][0]["reward"] for record in records}
    assert len(first_rewards) == 1  # the same pictures: all run the whole chain
    assert len({record["updates"][0]["grad_norm"] for record in records}) == len(cells)


def test_the_gradient_of_alpha_1_agrees_with_itself(tmp_path: Path) -> None:
    Gradients("symmetry", 2, batches=2).run(tmp_path)
    found = json.loads((tmp_path / "gradients_symmetry_T=2.json").read_text())
    assert found["1.0"]["cosine"] == pytest.approx([1, 1], abs=1e-4)
    assert max(abs(cosine) for cosine in found["0.0"]["cosine"]) < 0.999
    assert all(norm > 0 for alpha in found.values() for norm in alpha["norm"])

"""Which picture has which prompt: by name whatever the column is called, in order only when asked, else not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from drtune.cli.main import main
from drtune.errors import UserError
from drtune.evaluation.references import find_pictures
from drtune.prompts.pictured import matched
from drtune.prompts.prepare import Prompt

COLOURS = {"7c1e.png": "red", "0ab2.png": "green", "f00d.png": "blue", "3bcd.png": "white"}
"""In the order of the table, which is not that of the names."""
MATCH = """
import torch
COLOURS = {"red": (1, 0, 0), "green": (0, 0.5, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
def match(images, prompts):
    wanted = torch.tensor([COLOURS.get(prompt.split()[0], (0, 0, 0)) for prompt in prompts])
    return 1 - (images.mean((2, 3)) - wanted).abs().mean(1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pics").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / "pics" / name)
    (tmp_path / "match.py").write_text(MATCH)
    return tmp_path


def table(folder: Path, column: str, prefix: str = "", **more: list[str]) -> Path:
    rows = {column: [prefix + name for name in COLOURS], "text": [f"{colour} square" for colour in COLOURS.values()]}
    pd.DataFrame(rows | more).to_csv(folder / "prompts.csv", index=False)
    return folder / "prompts.csv"


@pytest.mark.parametrize(
    "column", ["image", "Image Name", "image_name", "image_path", "file", "file_name", "filename", "picture", "id"]
)
def test_a_column_of_any_name_that_names_the_pictures_pairs_them(folder: Path, column: str) -> None:
    prompts = table(folder, column)
    arguments = [
        folder / "pics",
        "--prompts",
        prompts,
        "--reward",
        f"{folder}/match.py:match",
        "--out",
        folder / "s.csv",
    ]
    result = CliRunner().invoke(main, ["score", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert pd.read_csv(folder / "s.csv").iloc[:, 3].tolist() == pytest.approx([1, 1, 1, 1], abs=0.01)
    with pytest.raises(UserError, match=f"{column.casefold()} names the pictures, so that their order does not count"):
        matched(folder / "pics", prompts, by_order=True)


@pytest.mark.parametrize("prefix", ["pics\\", "C:\\mine\\pics\\", "./", ".\\", "pics/", "/data/pics/"])
def test_paths_of_windows_and_from_outside_of_the_folder_are_understood(folder: Path, prefix: str) -> None:
    entries = matched(folder / "pics", table(folder, "image", prefix))
    assert [(entry.image, entry.problem) for entry in entries] == [(name, "") for name in COLOURS]


def test_a_column_that_says_so_goes_before_another_that_names_pictures_too(folder: Path) -> None:
    entries = matched(folder / "pics", table(folder, "before", file_name=["3bcd.png", "f00d.png", "gone.png", ""]))
    assert [entry.image for entry in entries[:3]] == ["3bcd.png", "f00d.png", "gone.png"]
    assert [entry.problem for entry in entries[2:]] == ["missing", "no image named in line 5", "surplus", "surplus"]


@pytest.mark.parametrize("by_order", [False, True])
def test_a_table_whose_names_match_no_picture_is_refused_by_name(folder: Path, by_order: bool) -> None:
    prompts = table(folder, "file_name", "elsewhere-")
    with pytest.raises(
        UserError, match=r"nothing that its file_name names \(first 'elsewhere-7c1e.png'\) is a file in"
    ):
        matched(folder / "pics", prompts, by_order=by_order)


def test_order_is_not_guessed(folder: Path) -> None:
    prompts = table(folder, "number", "no.")
    with pytest.raises(UserError, match=r"no field names pictures of .*; add a column image"):
        matched(folder / "pics", prompts)
    assert [entry.image for entry in matched(folder / "pics", prompts, by_order=True)] == sorted(COLOURS)


def test_a_reference_is_never_paired_by_order(folder: Path) -> None:
    prompts = [Prompt(f"{colour} square", "") for colour in COLOURS.values()]
    manifest = folder / "pics/manifest.csv"
    table(folder, "file_name").rename(manifest)
    pictures = find_pictures("mj", folder / "pics", prompts, 1)
    assert {text: path.name for text, [path] in pictures.by_prompt.items()} == {
        f"{colour} square": name for name, colour in COLOURS.items()
    }
    table(folder, "number", "no.").rename(manifest)
    with pytest.raises(UserError, match=r"manifest\.csv: no field names pictures"):
        find_pictures("mj", folder / "pics", prompts, 1)

"""`drtune score`: tables of the miniature's rewards, by order and by name, with bad pictures among them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from pyarrow import parquet

from drtune.cli.main import main
from drtune.errors import UserError
from drtune.evaluation.score import Entry, matched, score_pictures
from drtune.files.images import to_pil
from drtune.models.miniature.world import draw, scenes
from drtune.rewards import load_reward

DRAWN = scenes(seed=5, count=12)
CAPTIONS = [scene.caption for scene in DRAWN]
PICTURES = to_pil(draw(DRAWN, seed=6))
REWARDS = ["symmetry", "preference", "jpeg_kilobytes"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, 1.png to 12.png, with prompts in their order beside the folder."""
    images = tmp_path / "images"
    images.mkdir()
    for number, picture in enumerate(PICTURES, start=1):
        picture.save(images / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS) + "\n\n")
    return tmp_path


def write_prompts(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{image}\t{prompt}\n" for image, prompt in [("image", "prompt"), *rows]))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def expected(name: str) -> list[float]:
    """What the reward says of the pictures as their files have them."""
    levels = torch.stack([torch.from_numpy(np.array(picture)) for picture in PICTURES])
    return load_reward(name, antialias=True)(levels.permute(0, 3, 1, 2) / 255, CAPTIONS).tolist()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_picture_has_a_row_and_every_reward_a_column(folder: Path, suffix: str) -> None:
    out = folder / f"scores.{suffix}"
    scores = score_pictures(
        str(folder / "images"), str(folder / "prompts.txt"), REWARDS, str(out), by_order=True, batch_size=5
    )
    table = pd.read_csv(out, keep_default_na=False) if suffix == "csv" else pd.read_parquet(out)
    assert list(table.columns) == ["image", "prompt", "category", *REWARDS, "problem"]
    assert list(table["image"]) == [f"{number}.png" for number in range(1, 13)]  # 2 before 10
    assert list(table["prompt"]) == CAPTIONS
    assert set(table["problem"]) == {""}
    for name in REWARDS:
        assert list(table[name]) == pytest.approx(expected(name), abs=1e-6)
        assert scores.means[name] == pytest.approx(table[name].mean())
    assert scores.num_scored == 12


def test_a_parquet_table_keeps_what_its_scores_hang_on(folder: Path) -> None:
    score_pictures(
        folder / "images", folder / "prompts.txt", ["symmetry", "preference"], folder / "x.parquet", by_order=True
    )
    metadata = parquet.read_schema(folder / "x.parquet").metadata
    assert metadata[b"provenance of preference"] == b"resized with antialias"


def test_photographs_that_are_stored_turned_score_as_they_are_shown(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, picture in enumerate(PICTURES, start=1):
        picture.rotate(90, expand=True).save(folder / "images" / f"{number}.png", exif=exif)
    score_pictures(
        folder / "images", folder / "prompts.txt", ["symmetry", "preference"], folder / "x.parquet", by_order=True
    )
    table = pd.read_parquet(folder / "x.parquet")
    for name in ("symmetry", "preference"):
        assert list(table[name]) == pytest.approx(expected(name), abs=1e-6)


def test_missing_corrupt_surplus_and_unprompted_pictures_are_named_and_counted(folder: Path) -> None:
    (folder / "images" / "3.png").write_bytes((folder / "images" / "3.png").read_bytes()[:200])
    (folder / "images" / "4.png").write_text("no picture")
    rows = [(f"./{number}.png", CAPTIONS[number - 1]) for number in range(1, 9)]
    rows += [("gone.png", "a red circle"), ("", "a blue square"), ("9.png", ""), ("1.png", CAPTIONS[1])]
    prompts = write_prompts(folder / "prompts.tsv", rows)
    result = run(
        folder / "images", "--prompts", prompts, "--reward", "symmetry,preference", "--out", folder / "out.parquet"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("7 pictures: symmetry ")
    assert result.stdout.splitlines()[-1].endswith(
        "; not scored: 2 corrupt, 1 missing, 1 no image named in line 11, 1 prompt: empty, 3 surplus; "
        f"table: {folder / 'out.parquet'}"
    )
    told = run(folder / "images", "--prompts", prompts, "--reward=symmetry", "--out", folder / "out.csv", "--json")
    facts = json.loads(told.stdout)
    assert (facts["num_scored"], facts["problems"]["missing"]) == (7, ["gone.png"])
    assert f"symmetry {facts['means']['symmetry']:.4f}" in result.stdout
    named = ("corrupt: 3.png", "corrupt: 4.png", "missing: gone.png", "surplus: 10.png", "prompt: empty: 9.png")
    for line in named:
        assert line in result.stderr.splitlines()
    table = pd.read_parquet(folder / "out.parquet")
    assert len(table) == 12 + 3
    assert table["symmetry"].isna().tolist() == (table["problem"] != "").tolist()
    assert table["symmetry"].notna().sum() == 7
    first = table[table["image"] == "1.png"]  # the same picture for two prompts
    assert first["symmetry"].nunique() == 1
    assert first["preference"].nunique() == 2


def test_pictures_of_several_sizes_and_modes_are_scored_in_their_order(folder: Path) -> None:
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(folder / "images" / "2.png")
    Image.new("L", (33, 31), 100).save(folder / "images" / "5.png")
    score_pictures(folder / "images", folder / "prompts.txt", ["brightness"], folder / "scores.csv", by_order=True)
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{number}.png" for number in range(1, 13)]
    assert float(rows[1]["brightness"]) == pytest.approx(0.299)
    assert float(rows[4]["brightness"]) == pytest.approx(100 / 255)


def test_pictures_are_found_below_the_folder_and_other_files_are_not(folder: Path) -> None:
    nested = folder / "images" / "anime"
    nested.mkdir()
    (folder / "images" / "1.png").rename(nested / "0.PNG")
    (folder / "images" / "notes.txt").write_text("x")
    names = [entry.image for entry in matched(folder / "images", folder / "prompts.txt", by_order=True)]
    assert names == [*(f"{number}.png" for number in range(2, 13)), "anime/0.PNG"]


def test_a_column_of_names_in_parquet_counts_and_one_of_pictures_is_not_read(folder: Path) -> None:
    prompts = folder / "prompts.parquet"
    pd.DataFrame({"prompt": CAPTIONS[:2], "file": ["2.png", "1.png"]}).to_parquet(prompts)
    assert matched(folder / "images", prompts)[:2] == [Entry("2.png", CAPTIONS[0]), Entry("1.png", CAPTIONS[1])]
    pd.DataFrame({"prompt": CAPTIONS, "image": [b"png"] * 12}).to_parquet(prompts)
    entries = matched(folder / "images", prompts, by_order=True)
    assert [entry.image for entry in entries] == [f"{n}.png" for n in range(1, 13)]


def test_the_summary_tells_what_the_scores_hang_on(folder: Path) -> None:
    result = run(
        folder / "images", "--prompts", folder / "prompts.txt", "--by-order", "--reward", "preference",
        "--no-antialias", "--reward",
        "jpeg_kilobytes", "--out", folder / "scores.csv",
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0] == "preference: resized without antialias"
    assert lines[1].startswith("jpeg_kilobytes: JPEG at quality 95 by Pillow ")
    assert lines[2].startswith("12 pictures: preference ")


def test_your_own_reward_scores(folder: Path) -> None:
    (folder / "mine.py").write_text("def redness(images, prompts):\n    return images[:, 0].mean((1, 2)).round()\n")
    name = f"{folder}/mine.py:redness"
    summary = score_pictures(folder / "images", folder / "prompts.txt", [name], folder / "scores.csv", by_order=True)
    assert set(summary.means) == {name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "images" / "1.png").unlink(), "11 pictures for 12 prompts in .*; add a column image"),
        (lambda at: (at / "prompts.txt").unlink(), r"prompts .*prompts\.txt: cannot be read"),
        (lambda at: (at / "images").rename(at / "moved"), "images .*images: is no folder"),
        (lambda at: [path.write_text("x") for path in (at / "images").iterdir()], "can be opened; give others"),
    ],
)
def test_what_cannot_be_scored_is_told_in_one_line_and_leaves_nothing(
    change: object, message: str, folder: Path
) -> None:
    assert callable(change)
    change(folder)
    result = run(
        folder / "images",
        "--prompts",
        folder / "prompts.txt",
        "--by-order",
        "--reward",
        "symmetry",
        "--out",
        folder / "scores.csv",
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    with pytest.raises(UserError, match=message):
        score_pictures(folder / "images", folder / "prompts.txt", ["symmetry"], folder / "scores.csv", by_order=True)
    assert not (folder / "scores.csv").exists()


@pytest.mark.parametrize(
    ("reward", "out", "message"),
    [
        ("symetry", "scores.csv", "error: --reward: no reward 'symetry'; there are symmetry, "),
        ("symmetry", "scores.xlsx", "scores.xlsx: is no table; give a file that ends in .csv or .parquet"),
        ("symmetry", "prompts.txt", "prompts.txt: is what it would be made from; give another place"),
        ("{folder}/mine.py:mine", "scores.csv", "mine.py:mine: not finite for 1.png; "),
    ],
)
def test_a_mistake_of_the_command_is_told_in_one_line(folder: Path, reward: str, out: str, message: str) -> None:
    (folder / "mine.py").write_text("def mine(images, prompts):\n    return images.mean((1, 2, 3)) / 0\n")
    result = run(
        folder / "images", "--prompts", folder / "prompts.txt", "--by-order", "--reward",
        reward.format(folder=folder), "--out", folder / out,
    )  # fmt: skip
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_table_that_is_there_is_kept_unless_told_otherwise(folder: Path) -> None:
    arguments = [folder / "images", folder / "prompts.txt", ["symmetry"], folder / "scores.csv"]
    score_pictures(*arguments, by_order=True)
    before = (folder / "scores.csv").read_bytes()
    with pytest.raises(UserError, match="exists already; give --overwrite"):
        score_pictures(*arguments, by_order=True)
    score_pictures(*arguments, by_order=True, overwrite=True)
    assert (folder / "scores.csv").read_bytes() == before

"""The evaluation against others: the champion, and folders and archives of pictures that somebody brings."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from drtune.errors import UserError
from drtune.evaluation.findings import ALONE
from drtune.evaluation.references import find_pictures
from drtune.evaluation.run import evaluate
from drtune.files.folders import check_place, opened
from drtune.files.storage import open_storage
from drtune.models.sample_set import SampleSettings, write_sample_set
from tests.evaluations import PROMPTS, ModelOf
from tests.evaluations import model_of as model_of
from tests.evaluations import prompts_folder as prompts_folder
from tests.pipelines import SIDE
from tests.s3 import BUCKET, S3Server


def test_champion_and_references_are_compared_on_the_prompts_that_both_have(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    texts = [prompt.text for prompt in PROMPTS[:4]]
    reference = write_reference(tmp_path / "mj", dict(zip(texts, RGB, strict=True)))
    report = evaluate(
        model_of("sdxl"),
        prompts_folder,
        tmp_path / "report",
        champion=model_of("sdxl"),
        references={"mj": reference, "zipped": zipped(reference)},
    )
    assert [(one.name, one.role) for one in report.contestants] == [
        ("candidate", "candidate"),
        ("base", "base"),
        ("champion", "champion"),
        ("mj", "reference"),
        ("zipped", "reference"),
    ]
    for score in report.scores:
        if score.opponent == "champion":  # it is the candidate itself
            assert (score.gain, score.win_rate) == (0, 0.5)
            assert score.p_value == (1 if score.category is None else None)  # categories have too few prompts
    for measure in ("symmetry", "brightness", "diversity_across"):
        mine, packed = report.score(measure, "mj"), report.score(measure, "zipped")
        assert mine is not None
        assert mine.num_prompts == 4
        assert packed == mine.model_copy(update={"opponent": "zipped"})
    table = pd.read_parquet(tmp_path / "report" / "scores.parquet")
    brightness = table[table.contestant == "mj"].set_index("prompt")["brightness"]
    for prompt, (red, green, blue) in zip(PROMPTS[:4], RGB, strict=True):
        assert brightness[prompt.text] == pytest.approx((0.299 * red + 0.587 * green + 0.114 * blue) / 255, abs=1e-6)
    assert report.standing("drift", "mj") is None  # it was not drawn from our noise
    assert report.contestants[3].problems == {"no picture": 4}


RGB = [(255, 0, 0), (0, 0, 255), (10, 10, 10), (0, 128, 0)]


def write_reference(folder: Path, colours: Mapping[str, tuple[int, int, int]]) -> Path:
    """A picture of one colour for each prompt, larger than ours, and the manifest."""
    folder.mkdir()
    rows = []
    for index, (prompt, colour) in enumerate(colours.items()):
        Image.new("RGB", (3 * SIDE, 3 * SIDE), colour).save(folder / f"{index}.webp", lossless=True)
        rows.append({"image": f"{index}.webp", "prompt": prompt.upper()})  # letter case does not count
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def zipped(folder: Path) -> Path:
    """The folder in an archive, as the one thing in it."""
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def test_every_picture_of_a_reference_that_is_not_used_is_named_and_counted(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    texts = [prompt.text for prompt in PROMPTS[:6]]
    folder = write_reference(tmp_path / "mj", dict(zip(texts, [*RGB, (1, 2, 3), (4, 5, 6)], strict=True)))
    (folder / "1.webp").write_bytes(b"no picture")
    (folder / "2.webp").unlink()
    shutil.copyfile(folder / "0.webp", folder / "3.webp")
    Image.new("RGB", (8, 8)).save(folder / "more.png")
    Image.new("RGB", (8, 8), "white").save(folder / "nobody.png")
    extra = [("more.png", "a violet circle"), ("4.webp", texts[4]), ("", texts[5])]
    with (folder / "manifest.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{image},{prompt}\n" for image, prompt in extra)
    report = evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report", references={"mj": folder})
    named = [json.loads(line) for line in (tmp_path / "report" / "problems.jsonl").read_text().splitlines()]
    assert [(row["image"], row["problem"]) for row in named] == [
        ("2.webp", "missing"),
        ("3.webp", "duplicate"),
        ("more.png", "not evaluated"),
        ("4.webp", "duplicate"),
        ("", "no image named in line 10"),
        ("nobody.png", "surplus"),
        *[("", "no picture")] * 4,
        ("0001-0.webp", "corrupt"),
    ]
    assert report.contestants[-1].problems == {
        "corrupt": 1,
        "duplicate": 2,
        "missing": 1,
        "no image named in line 10": 1,
        "no picture": 4,
        "not evaluated": 1,
        "surplus": 1,
    }
    score = report.score("brightness", "mj")
    assert score is not None
    assert score.num_prompts == 3  # 0, 4 and 5


def test_a_manifest_that_was_mended_is_another_reference(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in PROMPTS[:2]]
    folder = write_reference(tmp_path / "mj", dict(zip(texts, RGB, strict=False)))
    before = find_pictures("mj", folder, PROMPTS, 1).sha256
    manifest = pd.read_csv(folder / "manifest.csv")
    manifest["prompt"] = manifest["prompt"].to_numpy()[::-1]
    manifest.to_csv(folder / "manifest.csv", index=False)
    assert find_pictures("mj", folder, PROMPTS, 1).sha256 != before


def test_a_manifest_cannot_name_files_outside_of_its_folder(tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "mj", {PROMPTS[0].text: (1, 2, 3)})
    (tmp_path / "secret.png").write_bytes(b"secret")
    with (folder / "manifest.csv").open("a", encoding="utf-8") as file:
        file.write(f"../secret.png,{PROMPTS[1].text}\n/proc/self/environ,{PROMPTS[2].text}\n")
    problems = find_pictures("mj", folder, PROMPTS[:3], 1).problems
    assert [unused.problem for unused in problems] == ["outside of the folder"] * 2 + ["no picture"] * 2


def test_a_damaged_archive_is_refused_in_one_line_and_capitals_are_read(tmp_path: Path) -> None:
    archive = zipped(write_reference(tmp_path / "mj", {PROMPTS[0].text: (1, 2, 3)}))
    shutil.copyfile(archive, tmp_path / "MJ.ZIP")
    with opened("mj", str(tmp_path / "MJ.ZIP")) as folder:
        assert (folder / "0.webp").is_file()
    content = bytearray(archive.read_bytes())
    content[len(content) // 4] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"), opened("mj", str(archive)):
        pass


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("mj", lambda folder: folder / "nowhere", "is no folder and no .zip"),
        ("mj", lambda folder: folder / "nowhere.zip", "is not there"),
        ("mj", lambda folder: folder, "wanted one file of prompts in .* found none"),
        ("base", lambda folder: folder, "wanted lower-case letters, digits and dashes, and not base"),
        ("../mj", lambda folder: folder, "wanted lower-case letters"),
        ("mj", lambda folder: write_reference(folder / "mj", {"other": (1, 2, 3)}), r"not one .* \(not evaluated\)"),
        ("mj", lambda folder: write_bytes(folder / "mj.zip"), r"cannot be unpacked"),
        ("mj", lambda folder: write_bytes(folder / "mj.tar.gz"), r"cannot be unpacked"),
    ],
)
def test_a_reference_that_cannot_be_used_is_named_before_anything_is_drawn(
    name: str, make: Callable[[Path], Path], message: str, model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "brought").mkdir()
    with pytest.raises(UserError, match=message) as raised:
        evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report", references={name: make(tmp_path / "brought")})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "report.partial").exists()


def write_bytes(path: Path) -> Path:
    path.write_bytes(b"no archive")
    return path


def test_an_archive_cannot_write_outside_of_its_folder(model_of: ModelOf, prompts_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mj.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped.txt"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report", references={"mj": tmp_path / "mj.tar"})


def test_a_reference_may_lie_on_s3(s3_server: S3Server, tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "mj", {prompt.text: (1, 2, 3) for prompt in PROMPTS[:1]})
    storage = open_storage(f"s3://{BUCKET}/{tmp_path.name}", s3_server.environment)
    for path in (folder / "0.webp", folder / "manifest.csv", zipped(folder)):
        storage.upload(f"{path.parent.name}/{path.name}" if path.suffix != ".zip" else path.name, path)
    for place in ("mj", "mj/", "mj.zip"):
        check_place("mj", f"{storage.uri}/{place}", s3_server.environment)
        with opened("mj", f"{storage.uri}/{place}", s3_server.environment) as found:
            assert (
                find_pictures("mj", found, PROMPTS, 1).by_prompt[PROMPTS[0].text][0].read_bytes()
                == (folder / "0.webp").read_bytes()
            )
    for place in ("nothing", "nothing.zip"):
        with (
            pytest.raises(UserError, match=f"/{place}: nothing is stored there"),
            opened("mj", f"{storage.uri}/{place}", s3_server.environment),
        ):
            pass


def test_what_drtune_sample_draws_can_be_a_reference(model_of: ModelOf, prompts_folder: Path, tmp_path: Path) -> None:
    texts = [prompt.text for prompt in PROMPTS]
    write_sample_set(texts, tmp_path / "drawn", SampleSettings(steps=1, count=2), base_model="miniature")
    lacking = shutil.copytree(tmp_path / "drawn", tmp_path / "lacking")
    next(lacking.rglob("*-1.png")).unlink()
    report = evaluate(
        model_of("sdxl"),
        prompts_folder,
        tmp_path / "report",
        references={"mini": tmp_path / "drawn", "lacking": lacking},
    )
    assert report.contestants[-2].num_pictures == 16
    assert report.contestants[-2].problems == {}
    assert report.standing("diversity_within", "mini") is not None
    assert report.standing("diversity_within", "lacking") is None
    # What a missing picture costs beside itself is told, and of which prompt it was.
    assert report.contestants[-1].problems == {"missing": 1, ALONE: 1}
    named = [json.loads(line) for line in (tmp_path / "report/problems.jsonl").read_text().splitlines()]
    assert [row["contestant"] for row in named] == ["lacking"] * 2
    assert named[0]["prompt"] == named[1]["prompt"]

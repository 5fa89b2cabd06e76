"""What a study asks, and that its page tells nobody who drew what."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drtune.contracts import EvaluationReport, Study, StudyPair
from drtune.errors import UserError
from drtune.evaluation.study.build import MAX_PAGE_BYTES
from drtune.evaluation.study.build import make as make_study
from drtune.evaluation.study.design import design
from drtune.evaluation.study.page import encode, render
from drtune.files.local import sha256_file
from tests.studies import COLOURS, numbered, write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{ 7 * 7 }} \u2028 <!-- &lt;"


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def study_of(*prompts: str, question: str = "Which picture is better?") -> Study:
    pairs = tuple(
        StudyPair(id=f"id{index}", prompt=prompt, category="", picture=0, left="base", right="candidate")
        for index, prompt in enumerate(prompts)
    )
    return Study(
        id="0123456789abcdef",
        question=question,
        ties=True,
        seed=0,
        contestants=("candidate", "base"),
        pairs=pairs,
        report_sha256="5e0f",
    )


def page_of(study: Study) -> str:
    pictures = {
        (name, pair.prompt, 0): "data:image/png;base64," for pair in study.pairs for name in ("base", "candidate")
    }
    return render(study, [study.pairs], pictures)


def asked(names: tuple[str, ...], num_prompts: int, **arguments: Any) -> list[list[StudyPair]]:
    places = {name: [(prompt, picture) for prompt in numbered(num_prompts) for picture in (0, 1)] for name in names}
    arguments = {"count": None, "repeat": 0.0, "rng": np.random.default_rng(3)} | arguments
    return design(places, dict.fromkeys(numbered(num_prompts), "shapes"), **arguments)


def test_two_contestants_stand_on_either_side_equally_often_on_prompts_of_their_own() -> None:
    pairs = [pair for part in asked(("candidate", "base"), 40, count=30) for pair in part]
    assert Counter((pair.left, pair.right) for pair in pairs) == {("candidate", "base"): 15, ("base", "candidate"): 15}
    assert len({pair.prompt for pair in pairs}) == 30
    assert {pair.picture for pair in pairs} == {0}
    assert len({pair.id for pair in pairs}) == 30


def test_a_second_picture_is_asked_when_every_prompt_was() -> None:
    pairs = [pair for part in asked(("candidate", "base"), 20, count=30) for pair in part]
    assert Counter(pair.picture for pair in pairs) == {0: 20, 1: 10}
    assert len({(pair.prompt, pair.picture) for pair in pairs}) == 30


def test_every_two_of_four_meet_equally_often_and_spread_over_the_prompts() -> None:
    pairs = [pair for part in asked(("a", "b", "c", "d"), 12, count=24) for pair in part]
    assert Counter(frozenset((pair.left, pair.right)) for pair in pairs) == {
        frozenset(pair): 4 for pair in ("ab", "ac", "ad", "bc", "bd", "cd")
    }
    assert set(Counter((pair.left, pair.right) for pair in pairs).values()) == {2}
    assert set(Counter(pair.prompt for pair in pairs).values()) == {2}


@pytest.mark.parametrize(
    ("count", "repeat", "sizes"), [(30, 0.2, [12, 12, 12]), (10, 1.0, [10, 0, 10]), (7, 0, [2, 3, 2])]
)
def test_repeats_come_with_swapped_sides_in_the_last_part_and_what_they_repeat_in_the_first(
    count: int, repeat: float, sizes: list[int]
) -> None:
    parts = asked(("candidate", "base"), 40, count=count, repeat=repeat)
    assert [len(part) for part in parts] == sizes
    repeats = [pair for part in parts for pair in part if pair.repeats]
    assert len(repeats) == round(count * repeat)
    first = {pair.id: pair for pair in parts[0]}
    for pair in repeats:
        again = first[str(pair.repeats)]
        assert pair in parts[-1]
        assert (again.left, again.right, again.prompt, again.picture) == (
            pair.right,
            pair.left,
            pair.prompt,
            pair.picture,
        )


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_any_study_asks_what_it_was_told_to(count: int, repeat: float, seed: int) -> None:
    parts = asked(("candidate", "base"), 20, count=count, repeat=repeat, rng=np.random.default_rng(seed))
    pairs = [pair for part in parts for pair in part]
    assert sum(pair.repeats is None for pair in pairs) == count
    assert len({pair.id for pair in pairs}) == len(pairs) == count + round(repeat * count)
    left = sum(pair.left == "candidate" for pair in pairs if pair.repeats is None)
    assert abs(2 * left - count) <= 1


def test_the_same_report_and_seed_make_the_same_study_and_others_another(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(12))
    one, again = (make_study(report, tmp_path / name, seed=5) for name in ("one", "again"))
    assert one == again == Study.load(tmp_path / "one")
    assert (tmp_path / "one" / "index.html").read_bytes() == (tmp_path / "again" / "index.html").read_bytes()
    assert one.page_sha256 == sha256_file(tmp_path / "one" / "index.html")
    assert one.report_sha256 == sha256_file(report / "manifest.json")
    other_seed = make_study(report, tmp_path / "seed", seed=6)
    EvaluationReport.load(report).model_copy(update={"seed": 1}).save(report)
    other_report = make_study(report, tmp_path / "report2", seed=5)
    sides = [[pair.left for pair in study.pairs] for study in (one, other_seed, other_report)]
    assert len({study.id for study in (one, other_seed, other_report)}) == 3
    assert sides[0] != sides[1]
    assert sides[0] != sides[2]  # who has only the page and the seed cannot work the sides out


def test_the_page_holds_no_names_files_sides_or_digests(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(8), contestants=("candidate", "base", "midjourney"))
    study = make_study(report, tmp_path / "study", contestants=("candidate", "base", "midjourney"), count=9)
    text = (tmp_path / "study" / "index.html").read_text(encoding="utf-8")
    for told in ("candidate", "midjourney", '"base"', "0000-0", study.report_sha256, '"repeats"', "shapes"):
        assert told not in text
    data = Page(text).data
    assert set(data) == {"study", "choices", "pictures", "questions", "graded", "parts"}
    assert {frozenset(pair) for part in data["parts"] for pair in part} == {
        frozenset({"id", "prompt", "left", "right"})
    }
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["index.html", "manifest.json"]


def test_the_page_shows_each_pair_on_the_sides_that_the_key_tells(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(8))
    study = make_study(report, tmp_path / "study", repeat=0.5)
    data = Page((tmp_path / "study" / "index.html").read_text(encoding="utf-8")).data
    shown = {pair["id"]: pair for part in data["parts"] for pair in part}
    assert list(shown) == [pair.id for pair in study.pairs]
    assert len(data["pictures"]) == 16  # repeats show the same pictures
    for pair in study.pairs:
        for side, contestant in (("left", pair.left), ("right", pair.right)):
            content = base64.b64decode(data["pictures"][shown[pair.id][side]].partition(",")[2])
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.getpixel((5, 5)) == Image.new("RGB", (1, 1), COLOURS[contestant]).getpixel((0, 0))


def test_pictures_lose_what_their_files_tell_beside_pixels(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("drtune", "candidate")
    Image.new("RGB", (40, 20), "red").save(
        tmp_path / "a.png", pnginfo=text, dpi=(72, 72), icc_profile=b"candidate" * 20
    )
    Image.new("RGB", (400, 200), "red").save(tmp_path / "b.jpg", comment=b"candidate", quality=95)
    assert b"candidate" in (tmp_path / "a.png").read_bytes()
    assert b"candidate" in (tmp_path / "b.jpg").read_bytes()
    for kind in ("png", "jpeg"):
        shown = [encode(tmp_path / name, 80, kind) for name in ("a.png", "b.jpg")]
        contents = [base64.b64decode(uri.partition(",")[2]) for uri in shown]
        assert all(uri.startswith(f"data:image/{kind};base64,") for uri in shown)
        assert not any(b"candidate" in content or b"pHYs" in content for content in contents)
        for content in contents:
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.size == (80, 40)


def test_raters_see_the_grey_that_the_rewards_see_and_not_its_sixteen_bits_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0x4000, np.uint16)).save(tmp_path / "a.png")
    content = base64.b64decode(encode(tmp_path / "a.png", 32, "png").partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.getpixel((5, 5)) == (0x40, 0x40, 0x40)


def test_a_picture_that_is_gone_or_none_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    for name, problem in (("a.png", r"is no picture that can be opened \(corrupt\)"), ("b.png", "is missing")):
        with pytest.raises(UserError, match=f"{name}: {problem}.*; evaluate again"):
            encode(tmp_path / name, 32, "png")


def test_pictures_of_different_sizes_come_in_one_format(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(4))
    for path in (report / "images" / "base").iterdir():
        Image.new("RGB", (300, 300), "orange").save(path)
    make_study(report, tmp_path / "study", side=100)
    data = Page((tmp_path / "study" / "index.html").read_text(encoding="utf-8")).data
    assert {uri.partition(",")[0] for uri in data["pictures"]} == {"data:image/jpeg;base64"}
    sizes = {Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in data["pictures"]}
    assert sizes == {(100, 100)}


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    page = Page(page_of(study_of("a red circle")))
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    for tag, attributes in page.tags:
        assert tag not in {"iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert all((attributes.get(name) or "data:").startswith("data:") for name in ("src", "href", "action"))
    [policy] = [str(a["content"]) for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_hostile_prompts_and_questions_stay_text() -> None:
    plain, hostile = Page(page_of(study_of("x"))), Page(page_of(study_of(HOSTILE, question=HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.data["parts"][0][0]["prompt"] == HOSTILE
    assert "\u2028" not in hostile.scripts[0]


@settings(deadline=None, max_examples=200)
@given(
    st.text()
    | st.lists(st.sampled_from(["<", "</", "script", ">", "<!--", "-->", "]]>", "&lt;", "\u2028"])).map("".join)
)
def test_any_prompt_gives_the_same_tags_and_comes_back_as_it_was(prompt: str) -> None:
    page = Page(page_of(study_of(prompt, "a blue ring")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(page_of(study_of("x", "y"))).tags]
    assert page.data["parts"][0][0]["prompt"] == prompt
    assert not {"<", ">", "&"} & set(page.scripts[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contestants": ["candidate"]}, "contestants candidate: give two or more, each once"),
        ({"contestants": ["base", "base"]}, "contestants base, base: give two or more"),
        ({"contestants": ["candidate", "sdxl"]}, "contestant 'sdxl': is not in .*; give some of base, candidate"),
        ({"count": 9}, "count=9: .* make 1 to 8 questions, .*; give --count 8"),
        ({"seed": -1}, "seed=-1"),
        ({"repeat": 1.5}, "repeat=1.5: give a share from 0 to 1"),
        ({"questions": [" "]}, "question ' ': is not one line"),
        ({"questions": ["looks"]}, "question 'looks': give overall, alignment, look, or a whole sentence"),
        ({"questions": ["look", "look"]}, "questions look, look: give one or more, each once"),
        ({"questions": []}, "questions : give one or more"),
        ({"protocol": "stars"}, "protocol 'stars': give one of choice, grades"),
        ({"side": 4}, "side=4: too small"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line_and_writes_nothing(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    report = write_report(tmp_path / "report", numbered(8))
    with pytest.raises(UserError, match=message) as raised:
        make_study(report, tmp_path / "study", **arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "study").exists()


def test_a_report_that_is_not_whole_is_refused_by_the_name_of_what_is_wrong(tmp_path: Path) -> None:
    report, out = write_report(tmp_path / "report", numbered(3)), tmp_path / "study"
    broken = report / "images" / "base" / "0001-0.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0001-0\.png: is no picture"):
        make_study(report, out)
    broken.unlink()
    with pytest.raises(UserError, match=r"0001-0\.png: is missing"):
        make_study(report, out)
    table = pd.read_parquet(report / "scores.parquet")
    table["contestant"] = table["contestant"].replace({"base": "candidate", "candidate": "base"})
    table.to_parquet(report / "scores.parquet")
    with pytest.raises(UserError, match=r"scores\.parquet: is not the one that the report names"):
        make_study(report, out)
    (report / "scores.parquet").unlink()
    with pytest.raises(UserError, match=r"scores\.parquet: cannot be read"):
        make_study(report, out)
    with pytest.raises(UserError, match="no EvaluationReport to read here"):
        make_study(tmp_path / "nothing", out)


def test_contestants_without_a_prompt_in_common_are_refused() -> None:
    with pytest.raises(UserError, match="contestants a, b: have no prompt in common"):
        design({"a": [("x", 0)], "b": [("y", 0)]}, {}, count=None, repeat=0.0, rng=np.random.default_rng(0))


def test_a_page_that_mail_would_not_take_is_refused_with_settings_that_fit(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(14))
    one, *others = sorted((report / "images").rglob("*.png"))
    Image.effect_noise((1000, 1000), 90).convert("RGB").save(one)  # nothing compresses worse
    for path in others:
        path.write_bytes(one.read_bytes())
    refusal = r"would take \d+ MB, more than the 18 MB that can be mailed; give --side (\d+) or --count (\d+)$"
    with pytest.raises(UserError, match=refusal) as raised:
        make_study(report, tmp_path / "study", side=1000)
    side, count = map(int, re.findall(r"--\w+ (\d+)", str(raised.value)))
    make_study(report, tmp_path / "smaller", side=side)
    make_study(report, tmp_path / "fewer", side=1000, count=count)
    sizes = [(tmp_path / name / "index.html").stat().st_size for name in ("smaller", "fewer")]
    assert all(0.7 * MAX_PAGE_BYTES < size < 1.01 * MAX_PAGE_BYTES for size in sizes)

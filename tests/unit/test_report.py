"""The page: what it shows, that it loads nothing, and that no prompt can break out of it."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drtune.cli.evaluation import decide
from drtune.config import Config, RewardTerm
from drtune.contracts import Agreement, BenchmarkRow, Check, Decision, EvaluationReport, Highlight, ScaleCurve, Score
from drtune.errors import UserError
from drtune.evaluation.highlights import doubts, highlights
from drtune.evaluation.report.pages import headline_numbers, number, scales, signed, told, warned, write_pages
from drtune.evaluation.report.published import STYLES
from drtune.evaluation.report.signs import signs, unsuspected
from drtune.evaluation.report.strength import panels
from tests.reports import point_of, report_of, score, standing, study_of

HOSTILE = """"><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & </style>"""
VOID = {"meta", "img", "rect", "input"}


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and whether tags close in the order in which they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_report(folder: Path, *prompts: str, **fields: Any) -> Path:
    """The folder of a report on symmetry and preference against two opponents, with a card for each prompt."""
    names = ("base", "mj", "candidate")
    for name in names:
        (folder / "thumbnails" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / "thumbnails" / name / "0000-0.png")
    shown = [
        Highlight(
            prompt=prompt,
            category="",
            gain=0.1 * place - 0.1,
            values=dict.fromkeys(names, 0.5),
            thumbnails={name: f"thumbnails/{name}/0000-0.png" for name in names},
        )
        for place, prompt in enumerate(prompts)
    ]
    report = report_of(
        score(gain=0.27),
        score(gain=0.3, category=HOSTILE),
        score(gain=0.2, category="photo"),
        score("preference", gain=-0.01),
        score("preference", gain=-0.01, category=HOSTILE),
        score("preference", gain=0.0, category="photo"),
        score(gain=-0.1, opponent="mj"),
        score("diversity_across", gain=-0.2),
        score("saturation", gain=0.01),
        standings=[standing("drift", 0.1234)],
        gained=shown,
        **fields,
    )
    (folder / "config.yaml").write_text(Config().to_yaml(), encoding="utf-8")
    (folder / "scores.parquet").write_bytes(b"scores")
    report.save(folder)
    return folder


def page_of(folder: Path, *prompts: str, decision: Decision | None = None, **fields: Any) -> Page:
    write_pages(write_report(folder, *prompts, **fields), folder, decision)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def decision_of(publish: bool) -> Decision:
    checks = (Check(passed=publish, reason=f"gain <b> {HOSTILE}"), Check(passed=True, reason="100 prompts"))
    return Decision(publish=publish, checks=checks, report_sha256="5e0f", policy_sha256="c7aa")


def test_the_curve_is_drawn_in_deviations_of_the_base_and_shares_of_its_diversity(tmp_path: Path) -> None:
    gains = {0.0: 0.0, 0.5: 0.2, 1.0: 0.5, 2.0: -1.0}
    picture = "thumbnails/base/0000-0.png"
    points = tuple(
        point_of(
            scale,
            score(gain=gain),
            score("preference", gain=-gain),
            score("diversity_across", gain=-0.1 * scale),
            standings=[standing("drift", 0.1 * scale - 1e-17)],  # 1 - cosine of a picture with itself
            picture=picture,
        )
        for scale, gain in gains.items()
    )
    curve = ScaleCurve(num_prompts=20, points=points)
    page = page_of(
        tmp_path, scale_curve=curve, decision=decision_of(publish=True).model_copy(update={"pick": "picks 0.5"})
    )
    assert page.open == []
    assert "picks 0.5" in page.text
    assert [line.get("stroke-dasharray") for tag, line in page.tags if tag == "polyline"] == ["none", "7 3"] * 2
    rewards, beside = panels(EvaluationReport.load(tmp_path))
    assert [line.name for line in rewards.lines] == ["symmetry", "preference"]
    assert [line.name for line in beside.lines] == ["diversity_across", "drift"]
    assert [label for _, label in rewards.x_ticks] == ["0", "0.5", "1", "2"]
    axis = {float(label.replace("\N{MINUS SIGN}", "-")): y for y, label in rewards.y_ticks}
    assert axis.keys() == {-4, -2, 0, 2, 4}
    symmetry = rewards.lines[0].marks  # in deviations of 0.25, and cut off at three of them
    assert [mark.y for mark in symmetry[::2]] == pytest.approx([axis[0], axis[2]])
    assert symmetry[3].y == pytest.approx((3 * axis[-4] + axis[0]) / 4)
    shares = {float(label): y for y, label in beside.y_ticks}
    assert beside.lines[0].marks[0].y == pytest.approx(shares[1])
    assert min(shares) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    told = "".join(page.text.split())  # cells stand side by side
    assert "Meanatstrength00.512symmetry0.5000.7001.00\N{MINUS SIGN}0.500preference" in told
    assert "| symmetry | 0.500 | 0.700 | 1.00 | \N{MINUS SIGN}0.500 |" in text


def test_page_is_well_formed_and_shows_numbers_pictures_and_provenance(tmp_path: Path) -> None:
    page = page_of(tmp_path, "a red circle", "a blue ring", num_truncated=3)
    assert page.open == []
    words = " ".join(page.text.split())
    for wanted in (
        "+0.270",
        "+0.240 to +0.300",
        "tuned on",
        "held out",
        "a red circle",
        "the mj",
        "0.123",
        "4a1b2c",
        "d751.dir",
        "904f0b1",
        "torch 2.13.0",
        "pictures of different prompts are 40 % less diverse than the base's",
    ):
        assert wanted in words
    assert "3 of 100 prompts are longer than the text encoder reads" in words
    assert sum(tag == "img" for tag, _ in page.tags) == 6


@pytest.mark.parametrize(("publish", "verdict"), [(True, "Publish"), (False, "Do not publish")])
def test_the_verdict_comes_first_with_its_reasons(tmp_path: Path, publish: bool, verdict: str) -> None:
    page = page_of(tmp_path, "a red circle", decision=decision_of(publish))
    assert page.text.index(verdict) < page.text.index("Contestants")
    assert f"gain <b> {HOSTILE}" in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([score()], ""),
        ([score(), score("hps", gain=-0.1, effect=-0.1)], "1 reward fell"),
        ([score(), score("hps", gain=-0.1, effect=-0.5), score("preference", gain=-0.2)], "2 warnings; 2 rewards fell"),
        ([score(), score("saturation", gain=0.2, effect=0.9)], "1 warning"),
        ([score(gain=-0.01, margin=0.02)], ""),
    ],
)
def test_warnings_and_falls_are_counted_beside_the_verdict(changes: list[Score], said: str) -> None:
    report = report_of(*changes)
    assert warned(report, len(signs(report))) == said


def test_a_picture_that_no_longer_shows_its_prompt_is_named(tmp_path: Path) -> None:
    page_of(tmp_path, "a red circle", "a blue ring")
    report = EvaluationReport.load(tmp_path)
    doubted = report.gained[1].model_copy(update={"doubts": ("preference, which reads the prompt, fell by 0.25",)})
    report.model_copy(update={"gained": (report.gained[0], doubted)}).save(tmp_path)
    write_pages(tmp_path, tmp_path)
    words = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    assert words.count("Likely hacked") == 1
    assert "a blue ring Likely hacked: preference, which reads the prompt, fell by 0.25." in words


def test_only_pictures_that_gained_while_their_prompt_was_lost_are_doubted() -> None:
    table = pd.DataFrame(
        [
            {"contestant": contestant, "index": index, "preference": value, "brightness": -value}
            for contestant, values in (("base", (0.0, 1.0, 0.0, 1.0)), ("candidate", (0.0, 0.5, -0.3, 1.5)))
            for index, value in enumerate(values)
        ]
    ).set_index(["contestant", "index"])
    table["prompt"] = "a red circle"
    told = [doubts(table, index, Config(), Path()) for index in range(4)]
    assert told == [(), ("preference, which reads the prompt, fell by 0.5",), (), ()]


def test_a_relative_reward_is_told_and_ranks_pictures_by_the_prompt_alone(tmp_path: Path) -> None:
    rows = [
        {
            "contestant": contestant,
            "index": index,
            "picture": 0,
            "prompt": f"prompt {index}",
            "category": "",
            "image": "0.png",
        }
        | {"preference": 0.5 + index * (contestant == "candidate")}
        for contestant in ("base", "candidate")
        for index in range(4)
    ]
    for contestant in ("base", "candidate"):
        (tmp_path / "images" / contestant).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / contestant / "0.png")
    term = RewardTerm(weight=2.0, praise="a bright", blame="a dark", hinge=0.1)
    gained, lost = highlights(pd.DataFrame(rows), Config(rewards={"preference": term}), tmp_path)
    assert [one.gain for one in (*gained, *lost)] == [6.0, 4.0, 0.0, 2.0]
    assert (
        told("preference", term) == "2 \N{MULTIPLICATION SIGN} preference (tuned on 'a bright' less 'a dark' up to 0.1)"
    )


def test_an_object_that_left_its_place_is_doubted(tmp_path: Path) -> None:
    captions = ["a red circle on the left, on a white background", "a blue ring in the centre, on a night background"]
    for contestant, left in (("base", 4), ("candidate", 10)):
        (tmp_path / "images" / contestant).mkdir(parents=True)
        for name, (background, colour, place) in {
            "0": ("white", "red", (left, 10)),
            "1": ("black", "blue", (10, 10)),
        }.items():
            picture = Image.new("RGB", (32, 32), background)
            picture.paste(colour, (*place, place[0] + 12, place[1] + 12))
            picture.save(tmp_path / "images" / contestant / f"{name}.png")
    rows = [
        {"contestant": contestant, "index": index, "prompt": caption, "image": f"{index}.png", "preference": 0.0}
        for contestant in ("base", "candidate")
        for index, caption in enumerate(captions)
    ]
    table = pd.DataFrame(rows).set_index(["contestant", "index"])
    told = [doubts(table, index, Config(), tmp_path) for index in range(2)]
    assert told == [("what stood on the left stands there no more",), ()]


def test_a_decision_is_printed_as_json(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", "a red circle")
    policy = tmp_path / "policy.yaml"
    policy.write_text("{min_prompts: 1000, against: {base: {symmetry: {min_gain: 0.1}}}}", encoding="utf-8")
    options = [f"--report={report}", f"--policy={policy}", f"--out={tmp_path / 'out'}", "--json"]
    result = CliRunner().invoke(decide, options)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))


def test_the_summary_in_markdown_says_the_same(tmp_path: Path) -> None:
    page_of(tmp_path, HOSTILE, decision=decision_of(False))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**Do not publish**" in text
    assert "| symmetry, tuned on | base | 0.500 | 0.770 | +0.270 (+0.240 to +0.300) | 90" in text
    assert "| symmetry, tuned on | mj |" in text
    assert "<script>" not in text.replace("\\<", "")
    assert "<img" not in text.replace("\\<", "")


def test_what_rewards_agree_on_and_what_was_not_measured_is_told(tmp_path: Path) -> None:
    agreed = Agreement(opponent="mj", num_prompts=100, all_rise=0.41, only_trained=0.13)
    words = " ".join(page_of(tmp_path, "a red circle", agreements=[agreed], notes=["no CMMD: <b>"]).text.split())
    assert "All rewards rose on 41 % of 100 prompts; on 13 % only symmetry, which" in words
    assert words.index("Candidate against mj") < words.index("All rewards rose")
    assert "no CMMD: <b>" in words
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    told = "- Against mj: all rewards rose on 41 % of 100 prompts; on 13 % only those that were tuned on."
    assert told in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "- no CMMD: &lt;b&gt;" in text


def test_nothing_is_said_of_chance_on_too_few_prompts(tmp_path: Path) -> None:
    report = EvaluationReport.load(write_report(tmp_path, "a red circle"))
    unknown: dict[str, Any] = dict.fromkeys(("gain_low", "gain_high", "win_low", "win_high", "effect", "p_value"))
    scores = tuple(one.model_copy(update=unknown | {"num_prompts": 7}) for one in report.scores)
    standings = tuple(one.model_copy(update={"low": None, "high": None}) for one in report.standings)
    few = report.model_copy(update={"scores": scores, "standings": standings, "num_prompts": 7})
    few.save(tmp_path)
    write_pages(tmp_path, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    words = " ".join(page.text.split())
    assert "(too few prompts for an interval)" in words
    assert "Too few prompts to look for signs of a hacked reward." in words
    body = [dict(attrs) for tag, attrs in page.tags if tag in ("svg", "td")]
    assert not [attrs for attrs in body if attrs.get("class") in ("bar", "measure up", "measure down")]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| +0.270 (too few prompts) | 90\N{NO-BREAK SPACE}% | \N{EN DASH} |\n| " in text
    assert "Too few prompts to look for signs" in text
    for absent in ("\N{INFINITY}", "None"):
        assert absent not in words + text


def test_what_people_said_stands_on_the_page(tmp_path: Path) -> None:
    report = EvaluationReport.load(write_report(tmp_path, "a red circle"))
    write_pages(tmp_path, tmp_path, decision_of(True), study_of(report))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "candidate over base" in page.text
    assert "Krippendorff's alpha 0.400" in " ".join(page.text.split())
    assert "- People preferred candidate over base in 65" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_dashboards_get_the_numbers_of_all_prompts_by_short_names(tmp_path: Path) -> None:
    numbers = headline_numbers(EvaluationReport.load(write_report(tmp_path)))
    assert numbers["symmetry"] == 0.77
    assert numbers["symmetry_gain_over_base"] == 0.27
    assert numbers["symmetry_win_rate_over_mj"] == 0.9
    assert numbers["drift"] == 0.1234
    assert "saturation_gain_over_base" not in numbers


def test_the_benchmark_stands_beside_published_rows_that_are_marked(tmp_path: Path) -> None:
    row = BenchmarkRow(contestant="base", styles=dict.fromkeys(STYLES, (28.12, 0.34)), average=28.5)
    words = " ".join(page_of(tmp_path, benchmark=(row,)).text.split())
    assert "base28.12± 0.34" in words
    assert "SDXL Base 0.9 published32.8431.3630.8627.4830.63" in words
    assert "Here hps resized with antialias" in words


def test_thumbnails_that_are_gone_are_named(tmp_path: Path) -> None:
    write_report(tmp_path, "a red circle")
    shutil.rmtree(tmp_path / "thumbnails" / "mj")
    with pytest.raises(UserError, match=r"thumbnails/mj/0000-0\.png: cannot be read .* evaluate again"):
        write_pages(tmp_path, tmp_path)


def test_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    for tag, attributes in page_of(tmp_path, "a red circle", decision=decision_of(True)).tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        assert all((attributes.get(name) or "data:").startswith("data:") for name in ("src", "href"))


def test_hostile_prompts_and_categories_stay_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, HOSTILE, "a blue ring")
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(HOSTILE) == 2  # as a category and under its pictures
    assert f"base: {HOSTILE}" in [attributes["alt"] for tag, attributes in page.tags if tag == "img"]


@settings(max_examples=30)
@given(st.text())
def test_any_prompt_gives_a_well_formed_page(prompt: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = page_of(Path(folder), prompt, "a blue ring")
    assert page.open == []
    assert sum(tag == "figure" for tag, _ in page.tags) == 2


def test_bars_of_rewards_in_different_units_compare_by_spread() -> None:
    report = report_of(score("a", gain=0.2, margin=0.1), score("b", gain=0.5, margin=0.0))
    assert scales(report) == pytest.approx({("base", "a"): 0.5, ("base", "b"): 0.5})
    assert scales(with_deviation(report, "a", 0.1)) == pytest.approx({("base", "a"): 0.3, ("base", "b"): 0.75})


def test_a_reward_that_fell_by_far_leaves_the_others_a_bar_to_see() -> None:
    report = with_deviation(report_of(score("a", gain=-0.9, margin=0.0), score("b", gain=0.25)), "a", 0.01)
    assert scales(report) == pytest.approx({("base", "a"): 0.03, ("base", "b"): 0.75})


def test_bars_can_be_drawn_when_nothing_varies_and_nothing_was_gained() -> None:
    report = report_of(score(gain=0.0, margin=0.0))
    assert min(scales(with_deviation(report, "symmetry", 0.0)).values()) > 0


def with_deviation(report: EvaluationReport, measure: str, deviation: float) -> EvaluationReport:
    standings = tuple(
        one.model_copy(update={"deviation": deviation}) if one.measure == measure else one for one in report.standings
    )
    return report.model_copy(update={"standings": standings})


def test_signs_of_a_hacked_reward_are_told_in_words_and_trifles_are_not() -> None:
    told = signs(
        report_of(
            score(gain=0.3),
            score("hps", gain=-0.1, effect=-0.5),
            score("pickscore", gain=-0.1, effect=-0.1),
            score("clipscore", gain=-0.01, margin=0.02, effect=-0.3),
            score("diversity_within", gain=-0.05, margin=0.01),
            score("diversity_across", gain=-0.2, margin=0.3),
            score("saturation", gain=0.2, effect=0.9),
            score("luminance", gain=-0.1, effect=-0.5),
        )
    )
    assert told == [
        ("hps", "hps, which was not tuned on, fell from 0.500 to 0.400, 0.5 standard deviations of the base's prompts"),
        ("saturation", "saturation rose from 0.500 to 0.700, 0.9 standard deviations of the base's prompts"),
    ]


def test_where_there_are_no_signs_it_is_said_in_what_they_were_looked_for() -> None:
    assert unsuspected(report_of(score())) == "Nothing was measured that could show a hacked reward."
    assert unsuspected(report_of(score(), score("luminance"))) == "No sign of a hacked reward in looks."
    told = unsuspected(report_of(score(), score("hps"), score("diversity_across"), score("luminance")))
    assert told == "No sign of a hacked reward in rewards that were not tuned on, diversity and looks."


def test_lines_of_a_curve_differ_in_more_than_their_colour_however_many_there_are(tmp_path: Path) -> None:
    rewards = [score(f"reward {number}") for number in range(15)]
    points = tuple(point_of(scale, *rewards, picture="thumbnails/base/0000-0.png") for scale in (0, 1))
    page_of(tmp_path, scale_curve=ScaleCurve(num_prompts=20, points=points))
    [panel] = panels(report_of(*rewards, scale_curve=ScaleCurve(num_prompts=20, points=points)))
    assert len({(line.colour, line.dash) for line in panel.lines}) == 15


def test_a_measure_that_a_curve_on_one_prompt_has_not_is_a_dash(tmp_path: Path) -> None:
    points = tuple(point_of(scale, score(), picture="thumbnails/base/0000-0.png") for scale in (0, 1))
    page_of(tmp_path, scale_curve=ScaleCurve(num_prompts=1, points=points))
    assert "| preference | \N{EN DASH} | \N{EN DASH} |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_numbers_are_written_with_their_digits_and_true_minus_signs() -> None:
    assert [number(value) for value in (0.0561, 5.632, 1234.5, -1e-9)] == ["0.056", "5.63", "1234", "0.000"]
    assert number(-12.4321) == "−12.4"  # noqa: RUF001 - the sign is meant
    assert [signed(value) for value in (math.inf, -math.inf)] == ["+∞", "−∞"]  # noqa: RUF001
    assert [signed(value) for value in (0.25, 0.0, -0.0004, -0.25)] == ["+0.250", "0.000", "0.000", "−0.250"]  # noqa: RUF001

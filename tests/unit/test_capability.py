"""Compositional prompts and their judges: what is asked, what is seen, and what is said of both shares."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.coverage import coverage_of_shares
from drtune.config import RewardTerm, load_config
from drtune.contracts import ANSWERS, Capability, LostPrompt
from drtune.errors import UserError
from drtune.evaluation.capability.asked import AskedJudge
from drtune.evaluation.capability.exam import Exam, open_exam, partial_judge
from drtune.evaluation.capability.result import capability_of
from drtune.evaluation.capability.shares import pooled, score_of
from drtune.evaluation.capability.world import CATEGORIES, WorldJudge
from drtune.evaluation.report.pages import headline_numbers
from drtune.evaluation.report.signs import signs
from drtune.evaluation.statistics import paired_shares
from drtune.files.images import to_pil, to_tensor
from drtune.models.miniature.world import draw
from drtune.prompts.compositional import Task, composed, read_tasks
from tests.reports import report_of, score
from tests.unit.test_report import HOSTILE, page_of
from tests.words import picture


def task(tag: str, prompt: str, *include: dict[str, object], **fields: object) -> Task:
    return Task.model_validate({"tag": tag, "prompt": prompt, "include": include, **fields})


@pytest.mark.parametrize(
    ("asked", "statements"),
    [
        (task("single_object", "a photo of an oven", {"class": "oven", "count": 1}), ["an oven"]),
        (
            task("two_object", "a bus and a tie", {"class": "bus", "count": 1}, {"class": "tie", "count": 1}),
            ["a bus", "a tie"],
        ),
        (
            task(
                "counting", "a photo of four wine glasses", {"class": "wine glass", "count": 4},
                exclude=[{"class": "wine glass", "count": 5}],
            ),
            ["exactly four wine glasses"],
        ),
        (task("counting", "two knives", {"class": "knife", "count": 2}), ["two knives"]),
        (task("counting", "two giraffes", {"class": "giraffe", "count": 2}), ["two giraffes"]),
        (
            task("colors", "a photo of an orange fork", {"class": "fork", "count": 1, "color": "orange"}),
            ["an orange fork"],
        ),
        (
            task(
                "position", "a photo of a dog right of a cup", {"class": "cup", "count": 1},
                {"class": "dog", "count": 1, "position": ["right of", 0]},
            ),
            ["a cup", "a dog", "a dog to the right of a cup"],
        ),
        (
            task(
                "color_attr", "a photo of a red dog and a blue key", {"class": "dog", "count": 1, "color": "red"},
                {"class": "key", "count": 1, "color": "blue"},
            ),
            ["a red dog", "a blue key"],
        ),
    ],
)  # fmt: skip
def test_each_kind_of_genevals_lines_says_what_is_asked_for(asked: Task, statements: list[str]) -> None:
    assert asked.statements == statements


def test_the_questions_of_geneval_2_are_asked_as_statements(tmp_path: Path) -> None:
    line = {
        "prompt": "a green elephant chasing six sheeps, and a glass violin on top of two cars",
        "atom_count": 9,
        "vqa_list": [
            ["How many elephants are in the image?", "one"],
            ["Is the elephant green?", "Yes"],
            ["Are there any elephants in the image?", "Yes"],
            ["Is the elephant chasing the sheeps?", "Yes"],
            ["How many sheeps are in the image?", "six"],
            ["Are the violins on top of the cars?", "Yes"],
        ],
        "skills": ["count", "attribute", "object", "verb", "count", "position"],
    }
    (path := tmp_path / "geneval2_data.jsonl").write_text(json.dumps(line), encoding="utf-8")
    [asked] = read_tasks(str(path))
    assert (asked.prompt, asked.tag) == (line["prompt"], "9 atoms")
    assert asked.statements == [
        "exactly one elephant",
        "the elephant is green",
        "an elephant",
        "the elephant is chasing the sheeps",
        "exactly six sheep",
        "the violins are on top of the cars",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: the line: Invalid JSON"),
        ('{"tag": "colors", "prompt": "a"}', "line 2: include: Field required"),
        ('{"tag": "a", "prompt": "a", "include": []}', "line 2: include: Tuple should have at least 1 item"),
        ('{"tag": "a", "prompt": "a", "include": [{"class": "x", "size": 3}]}', r"line 2: include\.0\.size: Extra"),
        ('{"tag": "a", "prompt": "a", "include": [{"class": "x", "count": 99}]}', r"line 2: include\.0\.count: "),
        (
            '{"tag": "a", "prompt": "a", "include": [{"class": "x", "position": ["above", 0]}]}',
            "line 2: the line: Value error, position of x is to none that stands before it in include",
        ),
        (
            '{"tag": "a", "prompt": "a", "include": [{"class": "x"}], "exclude": [{"class": "y"}]}',
            "exclude of y is no count that is one more than in include",
        ),
        ('{"prompt": "a", "vqa_list": [["Is the cup red?", "Yes"]]}', "line 2: atom_count: Field required"),
        ('{"prompt": "a", "atom_count": 1, "vqa_list": [["Is the cup red?"]]}', r"line 2: vqa_list\.0\.1: Field req"),
        (
            '{"prompt": "a", "atom_count": 1, "vqa_list": [["Is the cup red?", "No"]]}',
            "line 2: the line: Value error, 'Is the cup red.' with the answer 'No' is no question of GenEval 2",
        ),
        (
            '{"prompt": "a", "atom_count": 1, "vqa_list": [["How many cups are in the image?", "many"]]}',
            "with the answer 'many' is no question of GenEval 2; wanted a line of GenEval's metadata",
        ),
        (
            '{"tag": "a", "prompt": "a cup", "include": [{"class": "cup"}]}',
            "line 2: the prompt 'a cup' stands there tw",
        ),
    ],
)
def test_what_is_no_line_of_genevals_is_refused_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text('{"tag": "a", "prompt": "a cup", "include": [{"class": "cup"}]}\n' + line, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        read_tasks(str(path))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "picture.jsonl").write_bytes(b"\xff\xd8")
    told = {"empty": "is empty", "picture": "is not UTF-8", "none": r"cannot be read \(No such file"}
    for name, message in told.items():
        with pytest.raises(UserError, match=f"evaluation.capability.file=.*{name}.jsonl: {message}"):
            read_tasks(str(tmp_path / f"{name}.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["tag", "include", "exclude", "prompt", "class", "count", "color", "position", "vqa_list"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(json_values, max_size=3))
def test_no_file_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, lines: list[object]) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with suppress(UserError):
        assert all(one.statements for one in read_tasks(str(path)))


def test_the_prompts_that_it_brings_take_genevals_categories_in_turn_and_can_be_read_as_a_file(tmp_path: Path) -> None:
    tasks = composed(600)
    assert tasks[:60] == composed(60)
    assert set(Counter(one.tag for one in tasks[:60]).values()) == {10}
    assert len({one.prompt for one in tasks}) == 600
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(one.model_dump_json(by_alias=True, exclude_none=True) for one in tasks))
    assert read_tasks(str(path)) == tasks


def test_the_worlds_judge_finds_in_drawings_what_was_drawn_and_nothing_where_another_was() -> None:
    judge = WorldJudge(120)
    prompts = [prompt.text for prompt in judge.prompts]
    scenes = [judge.asked[prompt][1] for prompt in prompts]
    images = draw(scenes, seed=5)
    exam = Exam(judge, 120)

    def right(images: Tensor) -> dict[str, float]:
        rows = exam.read(to_pil(images), images, prompts, prompts)
        table = pd.DataFrame({"right": [row["right"] for row in rows]})
        shares: dict[str, float] = table.groupby([p.category for p in judge.prompts])["right"].mean().to_dict()
        return shares

    shares = right(images)
    assert shares.keys() == set(CATEGORIES)
    assert min(shares.values()) >= 0.96
    assert all(share <= 0.2 for name, share in right(images.roll(1, 0)).items() if name != "counting")
    assert right(torch.ones_like(images))["counting"] == 0
    aside = [" left" in prompt or " right" in prompt for prompt in prompts]
    mirrored = exam.read(to_pil(images.flip(3)), images, prompts, prompts)
    placed = [row["right"] for row, p, side in zip(mirrored, judge.prompts, aside, strict=True)
              if side and p.category == "position"]  # fmt: skip
    assert len(placed) >= 10
    assert not any(placed)


class Believer:
    """A reward that is sure of some statements."""

    name, provenance = "believer", "none"

    def __init__(self, *seen: str, doubt: float = 0.5) -> None:
        self.seen, self.doubt = seen, doubt

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        return images_BCHW.new_tensor([0.51 if prompt in self.seen else self.doubt for prompt in prompts])


def test_a_picture_is_right_if_the_judge_is_sure_of_all_that_is_asked_for() -> None:
    tasks = [task("two", "a cup and a dog", {"class": "cup"}, {"class": "dog"}), task("one", "a cup", {"class": "cup"})]
    exam = Exam(AskedJudge(Believer("a cup"), tasks), 2)
    pictures = [picture(8, 8)] * 2
    rows = exam.read(pictures, to_tensor(pictures), [one.prompt for one in tasks], ["a", "b"])
    assert [row["right"] for row in rows] == [False, True]
    assert json.loads(rows[0]["answers"]) == pytest.approx({"a cup": 0.51, "a dog": 0.5})


def test_an_answer_that_is_no_number_is_refused_with_its_picture() -> None:
    tasks = [task("one", "a cup", {"class": "cup"}), task("one", "a dog", {"class": "dog"})]
    exam = Exam(AskedJudge(Believer("a cup", doubt=math.nan), tasks), 2)
    pictures = [picture(8, 8)] * 2
    with pytest.raises(UserError, match="judge believer: its answer on 'a dog' is not finite for b; look at that"):
        exam.read(pictures, to_tensor(pictures), [one.prompt for one in tasks], ["a", "b"])


def test_shares_are_counted_by_category_and_lost_prompts_are_shown(tmp_path: Path) -> None:
    rows = []
    for contestant in ("base", "candidate"):
        (folder := tmp_path / "capability" / "images" / contestant).mkdir(parents=True)
        for index in range(20):
            picture(8, 8).save(folder / f"{index}.png")
            is_right = index != 0 if contestant == "base" else index not in (8, 9, 10)
            asked = {"a cup": 0.9, "a dog": 0.9 if is_right else 0.1}
            place = {"contestant": contestant, "index": index, "prompt": f"prompt {index}", "image": f"{index}.png"}
            category = "one" if index < 12 else "two"
            rows.append(place | {"category": category, "right": is_right, "answers": json.dumps(asked)})
    found = capability_of(pd.DataFrame(rows), AskedJudge(Believer(), []), tmp_path)
    overall, one, two = found.scores
    assert (overall.num_prompts, overall.base, overall.candidate) == (20, 0.95, pytest.approx(0.85))
    assert (overall.gained, overall.lost, overall.difference) == (1, 3, -0.1)
    assert (overall.low, overall.high) == paired_shares(1, 3, 20)
    assert (one.category, one.num_prompts, one.lost) == ("one", 12, 3)
    assert (two.category, two.num_prompts, two.difference) == ("two", 8, 0)
    assert [(lost.prompt, lost.missing) for lost in found.lost] == [(f"prompt {i}", ("a dog",)) for i in (8, 9, 10)]
    assert (tmp_path / found.lost[0].thumbnails["candidate"]).is_file()
    assert len((tmp_path / ANSWERS).read_text().splitlines()) == 40


def test_the_interval_is_that_of_a_published_example() -> None:
    # statpsych (R), ci.prop.ps(.05, 12, 4, 26, 6), as its help page has it.
    assert paired_shares(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)
    low, high = paired_shares(0, 0, 64)
    assert -0.05 < low < 0 < high < 0.05


@given(st.integers(8, 300), st.data())
def test_a_prompt_more_that_is_right_never_lowers_the_interval(count: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, count - 1))
    lost = data.draw(st.integers(0, count - 1 - gained))
    ends = paired_shares(gained, lost, count)
    for better in (paired_shares(gained + 1, lost, count), paired_shares(gained, max(lost - 1, 0), count)):
        assert better >= ends
        assert better[1] >= ends[1]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    for lost, gained in ((0.08, 0.03), (0.3, 0.05)):
        assert 0.94 <= coverage_of_shares(lost, gained, 64, 4000) <= 0.985


def test_a_judge_that_was_tuned_on_is_told_to_be_none() -> None:
    exam = Exam(AskedJudge(Believer(), []), 0)
    config = load_config(None, [])
    assert partial_judge(exam, config) == partial_judge(None, config) == ()
    tuned_on_it = config.model_copy(update={"rewards": {"believer": RewardTerm()}})
    [told] = partial_judge(exam, tuned_on_it)
    assert told.startswith("compositional prompts are judged by believer, which was tuned on")


def test_only_the_miniature_has_an_exam_by_itself() -> None:
    assert open_exam(load_config(None, ["base_model=other"])) is None
    assert open_exam(load_config(None, ["evaluation.capability.prompts=0"])) is None
    exam = open_exam(load_config(None, []))
    assert exam is not None
    assert set(Counter(prompt.category for prompt in exam.prompts).values()) == {12}
    assert "sha256 " in exam.judge.provenance


def test_what_it_can_still_draw_is_told_with_what_was_lost(tmp_path: Path) -> None:
    scores = [score_of(name, 40, base=0.9, gained=1, lost=9) for name in (None, HOSTILE)]
    pictures = {name: f"thumbnails/{name}/0000-0.png" for name in ("base", "candidate")}
    lost = LostPrompt(prompt=HOSTILE, category="colors", missing=(HOSTILE,), thumbnails=pictures)
    found = Capability(judge="probe", provenance="", scores=tuple(scores), lost=(lost,))
    page = page_of(tmp_path, capability=found)
    assert page.open == []
    words = " ".join(page.text.split())
    assert "Right by the base alone, the first" in words
    assert f"Not found: {HOSTILE}." in page.text
    assert "40 90 % 70 % \N{MINUS SIGN}0.200\N{MINUS SIGN}0.342 to \N{MINUS SIGN}0.039" in words
    assert "| all | 40 | 90" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_categories_of_which_fewer_are_right_are_signs_of_a_hacked_reward_and_dashboards_get_the_share() -> None:
    lost = score_of("position", 40, base=1.0, gained=0, lost=30)
    kept = score_of("colors", 40, base=0.9, gained=2, lost=3)
    found = Capability(judge="probe", provenance="", scores=(pooled([lost, kept]), lost, kept), lost=())
    report = report_of(score(), capability=found)
    told = "position: of 40 compositional prompts 25 % are right, of the base's 100 %"
    assert signs(report) == [("capability", told)]
    numbers = headline_numbers(report)
    assert (numbers["capability"], numbers["capability_gain_over_base"]) == pytest.approx((0.5625, -31 / 80))
    alone = Capability(judge="probe", provenance="", scores=(lost.model_copy(update={"category": None}),), lost=())
    assert [sign.text for sign in signs(report_of(score(), capability=alone))] == [told.removeprefix("position: ")]

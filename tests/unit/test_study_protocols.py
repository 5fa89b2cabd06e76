"""Grades, several questions, and judges held against raters: numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.contracts import EvaluationReport, GradeGain, JudgeAgreement, Study, StudyPair, StudyResult
from drtune.errors import UserError
from drtune.evaluation.report.pages import write_pages
from drtune.evaluation.statistics import mean_interval
from drtune.evaluation.study.build import make as make_study
from drtune.evaluation.study.judges import human_agreement, judge_agreements
from drtune.evaluation.study.measures import Judgement
from drtune.evaluation.study.tally import count as count_votes
from tests.reports import save_report, study_of
from tests.studies import numbered, prefer, votes_of, write_report, write_votes
from tests.unit.test_report import Page
from tests.unit.test_report import write_report as write_evaluation


def grades_of(study: Study, grade: Callable[[StudyPair, str], int], rater: str = "ann") -> dict[str, Any]:
    """A file with grades as the page saves it; `grade` is asked for each pair and contestant."""
    votes = [
        {"pair": pair.id, **({} if name is None else {"question": name}), "picture": side, "grade": grade(pair, who)}
        for pair in study.pairs
        for name in study.asked
        for side, who in (("left", pair.left), ("right", pair.right))
    ]
    return {"kind": "StudyVotes/1", "study": study.id, "rater": rater, "seed": 7, "votes": votes}


def test_grades_make_a_gain_over_prompts_and_the_higher_one_wins(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(10))
    study = make_study(report, tmp_path / "study", protocol="grades", repeat=0.2)
    number = {prompt: index for index, prompt in enumerate(numbered(10))}

    def by_prompt(pair: StudyPair, who: str) -> int:
        return 2 + (number[pair.prompt] % 3 if who == "candidate" else 1)  # 2, 3 or 4 against 3

    ann = write_votes(tmp_path / "ann.json", grades_of(study, by_prompt))
    bob = write_votes(tmp_path / "bob.json", grades_of(study, lambda _, who: 4 - (who == "base"), rater="bob"))
    result = count_votes([ann, bob], tmp_path / "study", tmp_path / "result")

    [gain] = result.grades
    each = [((index % 3 - 1) + 1) / 2 for index in range(10)]  # mean of ann's difference and bob's, a prompt
    low, high = mean_interval([[value] for value in each])
    assert gain.gain == pytest.approx(sum(each) / 10)
    assert (gain.low, gain.high) == (pytest.approx(low[0]), pytest.approx(high[0]))
    assert gain.opponent_mean == 3
    assert gain.mean == pytest.approx(3 + sum(each) / 10)
    assert (gain.num_prompts, result.num_votes, result.self_consistency) == (10, 20, 1.0)
    found = result.preference("candidate", "base")
    assert found is not None
    assert found.win_rate == pytest.approx((3 * 1 + 3 * 0.5 + 10) / 20)  # 3 higher, 3 as high, 4 lower; and bob's ten


def test_a_pair_with_one_grade_does_not_count_and_few_prompts_have_no_interval(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(4))
    study = make_study(report, tmp_path / "study", protocol="grades", repeat=0)
    votes = grades_of(study, lambda _, who: 3 if who == "base" else 1)
    votes["votes"] = votes["votes"][:5]
    result = count_votes([write_votes(tmp_path / "v.json", votes)], tmp_path / "study", tmp_path / "result")
    [gain] = result.grades
    assert (gain.num_prompts, gain.gain, gain.low, gain.high) == (2, -2, None, None)


def test_each_question_is_counted_by_itself_and_the_gate_reads_the_first(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(10))
    questions = ["overall", "alignment", "Which has more contrast?"]
    study = make_study(report, tmp_path / "study", questions=questions, repeat=0.2)
    assert study.asked == {
        None: "Which picture is better?",
        "alignment": "Which picture fits the text better?",
        "Which has more contrast?": "Which has more contrast?",
    }
    votes = votes_of(study, prefer("candidate"))
    votes["votes"] += [{**vote, "question": "alignment"} for vote in votes_of(study, prefer("base"))["votes"]]
    path = write_votes(tmp_path / "v.json", votes)
    result = count_votes([path], tmp_path / "study", tmp_path / "result")
    assert StudyResult.load(tmp_path / "result") == result
    rates = [found.win_rate for answer in result.answers for found in answer.preferences]
    assert rates == [1, 0]  # nobody answered the third
    assert [answer.num_votes for answer in result.answers] == [10, 10, 0]
    assert list(result.further) == ["alignment", "Which has more contrast?"]


def test_the_command_counts_in_json_and_tells_every_question(tmp_path: Path) -> None:
    report, study, out = write_report(tmp_path / "report", numbered(10)), tmp_path / "study", tmp_path / "result"
    made = ["study", "make", "--report", str(report), "--out", str(study), "--protocol", "grades"]
    assert CliRunner().invoke(main, [*made, "--question", "overall", "--question", "look"]).exit_code == 0
    votes = write_votes(tmp_path / "v.json", grades_of(Study.load(study), lambda _, who: 3 + (who == "candidate")))
    arguments = ["study", "count", str(votes), "--study", str(study), "--out", str(out)]
    told = CliRunner().invoke(main, arguments).stdout
    assert told.index("How good does this picture look, whatever the text says?") < told.index(
        "How good is this picture"
    )
    assert told.splitlines()[-2].startswith("candidate is preferred to base: 100.0% (72.2% to 100.0%) of 10 votes")
    facts = json.loads(CliRunner().invoke(main, [*arguments, "--overwrite", "--json"]).stdout)
    assert facts == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (facts["kind"], facts["grades"][0]["gain"], facts["further"]["look"]["num_votes"]) == (
        "StudyResult/1",
        1,
        10,
    )
    assert facts["judges"][0]["judge"] == "symmetry"
    page = (out / "result.md").read_text(encoding="utf-8")
    assert "| candidate | base | 4.00 | 3.00 | +1.00 |" in " ".join(page.split())
    assert "Grades are 1 (bad), 2 (fair), 3 (good), 4 (excellent)" in page


def test_answers_of_the_other_protocol_are_refused(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(4))
    study = make_study(report, tmp_path / "study", protocol="grades")
    path = write_votes(tmp_path / "v.json", votes_of(study, prefer("base")))
    with pytest.raises(UserError, match=r"votes\.0: holds no grade of a picture, which this study asks for"):
        count_votes([path], tmp_path / "study", tmp_path / "result")


def scored(identity: str, left: float, right: float) -> StudyPair:
    pair = StudyPair(id=identity, prompt=identity, category="", picture=0, left="a", right="b")
    return pair.model_copy(update={"scores": {"judge": (left, right), "other": (right, left)}})


def said(pair: str, *wins_left: float) -> list[Judgement]:
    return [Judgement(f"r{index}", pair, "a", "b", won, pair, repeat=False) for index, won in enumerate(wins_left)]


def test_a_judge_is_held_against_the_majority_and_a_rater_against_the_others() -> None:
    pairs = [scored("p", 2, 1), scored("q", 1, 2), scored("r", 1, 1), scored("s", 2, 1)]
    votes = [*said("p", 1, 1, 0), *said("q", 1, 0.5, 1), *said("r", 0, 0), *said("s", 1, 0)]
    first, second = judge_agreements(pairs, votes)
    # Of p, q and r, which have a majority: the judge is right, wrong, and tied; the other one wrong, right, and tied.
    assert (first.judge, first.num_pairs, first.rate) == ("judge", 3, pytest.approx(0.5))
    assert (second.judge, second.num_pairs, second.rate) == ("other", 3, pytest.approx(0.5))
    human = human_agreement(votes)
    assert human is not None
    # p: two of the three have others that are divided, the third has two against her: 0. q: the others of either rater
    # for the left say left: 1, 1, and the undecided one agrees by a half. r: 1. s: 0.
    assert human.rate == pytest.approx((0 + 2.5 / 3 + 1 + 0) / 4)
    assert human.low < human.rate < human.high
    assert human_agreement(said("p", 1)) is None


def test_scores_come_from_the_report(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(8))
    written = EvaluationReport.load(report)
    table = pd.read_parquet(report / "scores.parquet")
    table["symmetry"] = (table["contestant"] == "candidate") * 1.0
    table["drift"] = 0.3
    table.to_parquet(report / "scores.parquet")
    save_report(written, report)
    study = make_study(report, tmp_path / "study")
    assert {pair.scores["symmetry"][0] == 1 for pair in study.pairs if pair.left == "candidate"} == {True}
    assert {tuple(pair.scores) for pair in study.pairs} == {("symmetry",)}
    path = write_votes(tmp_path / "v.json", votes_of(study, prefer("candidate")))
    result = count_votes([path], tmp_path / "study", tmp_path / "result")
    assert [(found.judge, found.rate, found.num_pairs) for found in result.judges] == [("symmetry", 1.0, 8)]
    assert result.human is None


def test_the_report_tells_grades_judges_and_every_question(tmp_path: Path) -> None:
    report = EvaluationReport.load(write_evaluation(tmp_path, "a red circle"))
    study = study_of(report)
    gain = GradeGain(
        contestant="candidate",
        opponent="base",
        num_prompts=20,
        mean=3.1,
        opponent_mean=2.7,
        gain=0.4,
        low=0.2,
        high=0.6,
    )
    judge = JudgeAgreement(judge="preference", num_pairs=18, rate=0.71, low=0.55, high=0.84)
    human = JudgeAgreement(judge="a rater with the others", num_pairs=19, rate=0.8, low=0.6, high=0.9)
    asked = {"question": "Which fits the text better?", "grades": (gain,), "judges": (judge,), "human": human}
    study = study.model_copy(update=asked | {"further": {"look": study.model_copy(update={"question": "The look?"})}})
    write_pages(tmp_path, tmp_path, None, study)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    words = " ".join(page.text.split())
    for told in (
        "a gain of +0.400 (+0.200 to +0.600)",
        "Which fits the text better?",
        "The look?",
        "71 %",
    ):
        assert told in words
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- a rater with the others agrees with most raters on 80\N{NO-BREAK SPACE}% of 19 pairs" in text
    assert text.count("- People preferred candidate over base") == 2

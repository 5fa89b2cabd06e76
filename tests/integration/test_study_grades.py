"""Grades and several questions at a study's page, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from drtune.evaluation.study.build import make as make_study
from drtune.evaluation.study.tally import count as count_votes
from tests.browser import DESKTOP, PHONE, browser, needs_browser
from tests.rater import Rater
from tests.studies import numbered, write_report

pytestmark = needs_browser


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three pairs, two questions about either picture of each."""
    report = write_report(tmp_path / "report", numbered(3))
    make_study(report, tmp_path / "study", protocol="grades", questions=["overall", "look"], repeat=0)
    return tmp_path / "study"


def test_pictures_are_graded_by_keys_one_after_the_other_and_counted(study: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as driver:
        rater = Rater(driver, study / "index.html")
        assert "Give each picture a grade, from bad to excellent, in answer to 2 questions" in rater.find("#start").text
        rater.begin()
        asked = []
        for step in range(12):
            side = "left" if step % 2 == 0 else "right"
            framed = rater.find("figure.asked").get_attribute("data-side")
            asked.append((rater.count, rater.find("#which").text, rater.find("#question").text, framed))
            grade = "4" if rater.side_of("candidate") == side else "2"
            rater.answer(lambda grade=grade: rater.press(grade))  # type: ignore[misc]
        overall, look = "How good is this picture?", "How good does this picture look, whatever the text says?"
        assert asked[:5] == [
            ("1 of 3", "A", overall, "left"),
            ("1 of 3", "B", overall, "right"),
            ("1 of 3", "A", look, "left"),
            ("1 of 3", "B", look, "right"),
            ("2 of 3", "A", overall, "left"),
        ]
        rater.click("#end [data-do=undo]")
        assert rater.count == "3 of 3"
        for key in ("a", "5", "t", Keys.ARROW_LEFT):  # none of them is a grade
            rater.press(key)
        driver.refresh()
        assert (rater.screen, rater.find("#question").text, len(rater.votes["votes"])) == ("vote", look, 11)
        rater.answer(lambda: rater.press("4" if rater.side_of("candidate") == "right" else "2"))
        rater.click("#end [data-do=export]")
        result = count_votes([rater.saved(tmp_path / "profile")], study, tmp_path / "result")
        assert rater.complaints == []
    assert [answer.grades[0].gain for answer in result.answers] == [2, 2]
    assert result.preferences[0].win_rate == 1


def test_several_questions_are_asked_of_a_pair_before_the_next_one(tmp_path: Path) -> None:
    report = write_report(tmp_path / "report", numbered(2))
    make_study(report, tmp_path / "study", questions=["overall", "alignment"], repeat=0)
    with browser(tmp_path / "profile") as driver:
        rater = Rater(driver, tmp_path / "study" / "index.html")
        rater.begin()
        prompt = rater.prompt
        rater.choose("left")
        assert (rater.prompt, rater.count) == (prompt, "1 of 2")
        assert rater.find("#question").text == "Which picture fits the text better?"
        assert "fits the text" in str(rater.find("#announce").get_attribute("textContent"))
        rater.choose("tie")
        assert rater.prompt != prompt
        first, second = rater.votes["votes"]
        assert second == {"pair": first["pair"], "question": "alignment", "choice": "tie"}
        assert "question" not in first


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (844, 390)], ids=["desktop", "phone", "phone on its side"])
def test_all_grades_are_on_the_screen_and_a_tap_gives_one(study: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    with browser(tmp_path / "profile", size=size) as driver:
        rater = Rater(driver, study / "index.html")
        rater.begin()
        buttons = [f"[data-choice='{grade}']" for grade in range(1, 5)]
        for selector in ("#left", "#right", "#undo", "#question", "#prompt", *buttons):
            box = rater.find(selector).rect
            assert min(box["x"], box["y"]) >= 0
            assert box["x"] + box["width"] <= size[0]
            assert box["y"] + box["height"] <= size[1]
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert min(rater.find(button).rect["height"] for button in buttons) >= 36
        rater.choose("'3'")
        assert rater.votes["votes"][0]["grade"] == 3

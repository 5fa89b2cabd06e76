"""The page in a real browser: what a rater sees, presses, loses and saves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from drtune.contracts import Study
from drtune.evaluation.study.build import make as make_study
from drtune.evaluation.study.tally import count as count_votes
from tests.browser import DESKTOP, PHONE, browser, needs_browser
from tests.rater import Rater
from tests.studies import numbered, prefer, votes_of, write_report, write_votes

pytestmark = needs_browser

HACK = "document.title='hacked'"
HOSTILE = f'</script><script>{HACK}</script><img src=x onerror="{HACK}"> ${{1+1}} \u2028 &lt;'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten questions and two repeats."""
    root = tmp_path_factory.mktemp("study")
    report = write_report(root / "report", numbered(10))
    make_study(report, root / "study", repeat=0.2)
    return root / "study"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


@pytest.fixture
def rater(study: Path, profile: Path) -> Iterator[Rater]:
    with browser(profile) as driver:
        yield Rater(driver, study / "index.html")


def test_a_whole_study_by_keys_from_the_name_to_the_counted_file(rater: Rater, study: Path, profile: Path) -> None:
    assert rater.screen == "start"
    rater.begin("Ann B.")
    prompts = []
    for number in range(1, 13):
        assert rater.count == f"{number} of 12"
        prompts.append(rater.prompt)
        keys = {"left": ("a", Keys.ARROW_LEFT), "right": ("B", Keys.ARROW_RIGHT)}[rater.side_of("candidate")]
        rater.answer(lambda key=keys[number % 2]: rater.press(key))  # type: ignore[misc]
    assert rater.screen == "end"
    assert rater.find("#end h1").text == "Thank you, Ann B."
    assert rater.driver.switch_to.active_element == rater.find("#end h1")
    assert len(set(prompts)) == 10
    assert set(prompts[:4]) & set(prompts[-4:])  # repeats come last, what they repeat first

    rater.click("#end [data-do=export]")
    saved = rater.saved(profile)
    assert saved.name == f"votes-ann-b-{Study.load(study).id[:8]}.json"
    assert saved.name in rater.find("#saved").text
    result = count_votes([saved], study, profile.parent / "result")
    found = result.preference("candidate", "base")
    assert found is not None
    assert (found.num_votes, found.win_rate, result.self_consistency) == (10, 1.0, 1.0)
    assert result.raters[0].rater == "Ann B."
    assert rater.complaints == []


def test_clicks_ties_and_undo_are_what_is_saved(rater: Rater, profile: Path) -> None:
    rater.begin()
    first = rater.prompt
    assert not rater.find("#undo").is_enabled()
    rater.choose("left")
    second = rater.prompt
    rater.choose("tie")
    rater.click("#undo")
    assert (rater.prompt, rater.count) == (second, "2 of 12")
    rater.choose("right")
    rater.answer(lambda: rater.press("t"))
    for undo in ("u", Keys.BACKSPACE):
        rater.press(undo)
    ActionChains(rater.driver).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    assert (rater.prompt, rater.count) == (first, "1 of 12")
    rater.press("u")  # nothing is left to undo
    for choice in ("right", "tie", "left"):
        rater.choose(choice)
    rater.menu("export")
    saved = json.loads(rater.saved(profile).read_text(encoding="utf-8"))
    assert [vote["choice"] for vote in saved["votes"]] == ["right", "tie", "left"]
    assert saved == rater.votes
    assert "3 of 12 votes" in rater.find("#notice").text


@pytest.mark.slow
def test_what_does_not_mean_a_vote_is_none(rater: Rater) -> None:
    rater.find("#rater").send_keys("a b t u")  # letters of a name
    assert rater.screen == "start"
    rater.find("#rater").clear()
    rater.find("#rater").send_keys("   ", Keys.ENTER)
    assert rater.screen == "start"
    assert "name or a pseudonym" in rater.find("#notice").text
    rater.find("#rater").clear()
    rater.begin()
    for key in ("x", "1", Keys.ENTER, Keys.ESCAPE, Keys.ARROW_UP):
        rater.press(key)
    ActionChains(rater.driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    rater.driver.execute_script(
        "const held = new KeyboardEvent('keydown', {key: 'a', repeat: true}); document.dispatchEvent(held)"
    )
    assert rater.votes["votes"] == []
    rater.answer(
        lambda: rater.driver.execute_script(
            "for (let tap = 0; tap < 3; tap++) document.querySelector('.choice').click()"
        )
    )
    assert len(rater.votes["votes"]) == 1  # a double tap does not vote on the next pair, which was not seen


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_after_a_reload_and_after_the_browser_was_closed(
    study: Path, profile: Path
) -> None:
    with browser(profile) as driver:
        rater = Rater(driver, study / "index.html")
        rater.begin()
        for choice in ("left", "right", "tie"):
            rater.choose(choice)
        prompt, votes = rater.prompt, rater.votes
        driver.refresh()
        assert (rater.screen, rater.prompt, rater.count, rater.votes) == ("vote", prompt, "4 of 12", votes)
        rater.choose("left")
        prompt, votes = rater.prompt, rater.votes
    with browser(profile) as driver:
        rater = Rater(driver, study / "index.html")
        assert (rater.screen, rater.prompt, rater.count, rater.votes) == ("vote", prompt, "5 of 12", votes)


@pytest.mark.slow
def test_a_saved_part_goes_on_in_another_browser(study: Path, profile: Path, tmp_path: Path) -> None:
    with browser(profile) as driver:
        rater = Rater(driver, study / "index.html")
        rater.begin("Åsa \N{SNOWMAN}")
        for choice in ("left", "right", "tie", "left", "left"):
            rater.choose(choice)
        prompt, votes = rater.prompt, rater.votes
        rater.menu("export")
        saved = rater.saved(profile)
    with browser(tmp_path / "another") as driver:
        rater = Rater(driver, study / "index.html")
        assert rater.screen == "start"
        rater.give(saved)
        rater.wait(lambda: rater.screen == "vote")
        assert (rater.prompt, rater.count, rater.votes) == (prompt, "6 of 12", votes)
        while rater.screen == "vote":
            rater.choose("right")
        rater.click("#end [data-do=export]")
        whole = json.loads(rater.saved(tmp_path / "another").read_text(encoding="utf-8"))
    assert whole["rater"] == "Åsa \N{SNOWMAN}"
    assert whole["votes"][:5] == votes["votes"]
    assert len(whole["votes"]) == 12


@pytest.mark.slow
def test_files_that_do_not_fit_are_refused_and_nothing_is_lost(rater: Rater, study: Path, tmp_path: Path) -> None:
    key = Study.load(study)
    rater.begin()
    rater.choose("left")
    votes = rater.votes
    right = votes_of(key, prefer("candidate"))
    for name, content, complaint in (
        ("other", right | {"study": "ffff"}, "another study"),
        ("strange", right | {"votes": [{"pair": "none", "choice": "left"}]}, "damaged"),
        ("twice", right | {"votes": right["votes"] + right["votes"][:1]}, "damaged"),
        ("illegal", right | {"votes": [right["votes"][0] | {"choice": "up"}]}, "damaged"),
        ("nameless", right | {"rater": " "}, "damaged"),
        ("seed", right | {"seed": 1.5}, "damaged"),
        ("list", [1], "not a file with votes"),
    ):
        rater.give(write_votes(tmp_path / f"{name}.json", content))
        rater.wait(lambda complaint=complaint: complaint in rater.find("#notice").text)  # type: ignore[misc]
        assert rater.find("#notice").text.startswith(f"{name}.json: ")
        assert rater.votes == votes
    (tmp_path / "text.json").write_text("no JSON", encoding="utf-8")
    rater.give(tmp_path / "text.json")
    rater.wait(lambda: rater.find("#notice").text.startswith("text.json: "))

    rater.give(write_votes(tmp_path / "right.json", right))
    question = rater.asked()
    assert question.text == "Replace the 1 votes in this browser with the 12 in the file?"
    question.dismiss()
    assert rater.votes == votes
    rater.give(tmp_path / "right.json")
    rater.asked().accept()
    rater.wait(lambda: rater.screen == "end")
    assert rater.votes == right


@pytest.mark.slow
def test_starting_over_asks_first_and_the_next_rater_gets_an_order_of_her_own(rater: Rater) -> None:
    orders = []
    for name in ("Ann", "Bob", "Cy"):
        rater.begin(name)
        order = []
        for _ in range(4):
            order.append(rater.prompt)
            rater.choose("left")
        orders.append(tuple(order))
        rater.menu("restart")
        question = rater.asked()
        assert "The 4 votes in this browser are removed" in question.text
        question.dismiss()
        assert rater.votes["rater"] == name
        rater.menu("restart")
        rater.asked().accept()
        rater.wait(lambda: rater.screen == "start")
    assert len(set(orders)) > 1
    assert rater.driver.execute_script("return localStorage.length") == 0


@pytest.mark.slow
def test_the_last_vote_can_be_undone_at_the_end(rater: Rater) -> None:
    rater.begin()
    while rater.screen == "vote":
        rater.choose("left")
    rater.click("#end [data-do=undo]")
    assert (rater.screen, rater.count) == ("vote", "12 of 12")


@pytest.mark.slow
def test_damaged_progress_begins_anew_and_a_browser_that_keeps_nothing_is_told_of(rater: Rater) -> None:
    rater.begin()
    rater.driver.execute_script("localStorage.setItem(key, '{\"kind\": 3}')")
    rater.driver.refresh()
    assert rater.screen == "start"
    rater.driver.execute_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
    rater.begin()
    assert "keeps nothing" in rater.find("#notice").text
    rater.choose("left")
    assert rater.count == "2 of 12"
    assert "keeps nothing" in rater.find("#notice").text
    leave = "return dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # what a browser driver never asks
    assert not rater.driver.execute_script(leave)


@pytest.mark.slow
def test_another_tab_with_the_same_page_shows_the_same_place(rater: Rater) -> None:
    rater.begin()
    first = rater.driver.current_window_handle
    rater.driver.switch_to.new_window("tab")
    rater.driver.get(rater.page.as_uri())
    rater.choose("left")
    assert rater.count == "2 of 12"
    rater.driver.switch_to.window(first)
    rater.wait(lambda: rater.count == "2 of 12")


def test_a_study_without_ties_offers_and_takes_none(tmp_path: Path, profile: Path) -> None:
    report = write_report(tmp_path / "report", numbered(3))
    make_study(report, tmp_path / "study", ties=False)
    with browser(profile) as driver:
        rater = Rater(driver, tmp_path / "study" / "index.html")
        rater.begin()
        assert driver.find_elements(By.CSS_SELECTOR, "[data-choice=tie]") == []
        rater.press("t")
        assert rater.votes["votes"] == []
        assert "No difference" not in driver.page_source.partition("<script")[0]


def test_no_prompt_question_or_name_executes(tmp_path: Path, profile: Path) -> None:
    report = write_report(tmp_path / "report", [HOSTILE, f"{HOSTILE} again"])
    question = HOSTILE.replace("\u2028", "")
    make_study(report, tmp_path / "study", questions=[question])
    with browser(profile) as driver:
        rater = Rater(driver, tmp_path / "study" / "index.html")
        assert driver.title == " ".join(question.split())
        name = f'<img src=x onerror="{HACK}">'
        rater.begin(name)
        assert rater.prompt.startswith(HOSTILE)
        assert rater.find("#vote h1").text == " ".join(question.split())
        while rater.screen == "vote":
            rater.choose("left")
        assert rater.find("#end h1").text == f"Thank you, {name}"
        time.sleep(0.3)  # an error handler would have run by now
        assert driver.title == " ".join(question.split())
        assert len(driver.find_elements(By.TAG_NAME, "script")) == 2
        assert len(driver.find_elements(By.TAG_NAME, "img")) == 2

        # Even markup that got in could neither run nor load: the page's policy forbids it.
        driver.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", name)
        driver.execute_script(
            "const script = document.createElement('script'); script.textContent = arguments[0];"
            "document.body.append(script)",
            HACK,
        )
        time.sleep(0.3)
        assert driver.title == " ".join(question.split())
        assert any("Content Security Policy" in complaint for complaint in rater.complaints)


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (844, 390)], ids=["desktop", "phone", "phone on its side"])
def test_both_pictures_and_all_buttons_are_on_the_screen_at_once(
    tmp_path: Path, profile: Path, size: tuple[int, int]
) -> None:
    report = write_report(
        tmp_path / "report", [f"{number} {'a very long prompt ' * 40}" for number in range(3)], size=512
    )
    make_study(report, tmp_path / "study")
    with browser(profile, size=size) as driver:
        rater = Rater(driver, tmp_path / "study" / "index.html")
        rater.begin()
        for selector in ("#left", "#right", "#undo", "[data-choice=tie]", "#prompt", "#menu summary"):
            box = rater.find(selector).rect
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= size[0]
            assert box["y"] + box["height"] <= size[1]
        left, right = rater.find("#left").rect, rater.find("#right").rect
        assert min(left["width"], left["height"]) > 120
        assert (left["width"], left["height"]) == (right["width"], right["height"])
        assert driver.execute_script("return document.documentElement.scrollHeight <= innerHeight")
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_tap_on_a_phone_is_a_vote(study: Path, profile: Path) -> None:
    with browser(profile, size=PHONE) as driver:
        rater = Rater(driver, study / "index.html")
        rater.begin()
        box = rater.find("#right").rect
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}

        def tap() -> None:
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        rater.answer(tap)
        assert [vote["choice"] for vote in rater.votes["votes"]] == ["right"]


def test_everything_can_be_reached_by_tab_and_has_a_name(rater: Rater) -> None:
    rater.begin()
    names = []
    for _ in range(5):
        rater.press(Keys.TAB)
        names.append(rater.driver.switch_to.active_element.accessible_name)
    assert names == ["Menu", "The text", "Picture A is better", "Picture B is better", "No difference"]
    rater.find("[data-choice=right]").send_keys(Keys.SPACE)
    rater.wait(lambda: rater.count == "2 of 12")
    assert [vote["choice"] for vote in rater.votes["votes"]] == ["right"]
    assert rater.find("#announce").get_attribute("textContent") == f"Pair 2 of 12: {rater.prompt}"

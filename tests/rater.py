"""Somebody at a study's page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.alert import Alert
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.ui import WebDriverWait

PICTURE_COLOUR = """
const image = document.getElementById(arguments[0]), canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0, 1, 1);
return Array.from(context.getImageData(0, 0, 1, 1).data.slice(0, 3)).join();
"""
CONTESTANT = {"0,128,128": "candidate", "255,165,0": "base"}
"""By the colour of the pictures, as `tests.studies` paints them."""


class Rater:
    """Somebody at the page."""

    def __init__(self, driver: Chrome, page: Path) -> None:
        self.driver = driver
        self.page = page
        driver.get(page.as_uri())

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: condition())

    @property
    def screen(self) -> str:
        [shown] = [main for main in self.driver.find_elements(By.TAG_NAME, "main") if main.is_displayed()]
        return str(shown.get_attribute("id"))

    @property
    def count(self) -> str:
        return str(self.find("#count").text)

    @property
    def prompt(self) -> str:
        return str(self.driver.execute_script("return document.getElementById('prompt').textContent"))

    @property
    def votes(self) -> dict[str, Any]:
        """What the browser keeps."""
        kept = self.driver.execute_script("return Object.entries(localStorage)")
        [[key, value]] = kept
        assert key == f"drtune-study-{json.loads(value)['study']}"
        return dict(json.loads(value))

    def begin(self, name: str = "Ann") -> None:
        self.find("#rater").send_keys(name, Keys.ENTER)
        self.wait(lambda: self.screen == "vote")

    def press(self, key: str) -> None:
        ActionChains(self.driver).send_keys(key).perform()

    def answer(self, act: Callable[[], object]) -> None:
        """Do something that votes, and wait for what comes next."""
        before = self.driver.execute_script("return state.votes.length")
        act()
        self.wait(lambda: self.driver.execute_script("return state.votes.length > arguments[0] && !pausing", before))

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def choose(self, choice: str) -> None:
        self.answer(lambda: self.click(f"#vote [data-choice={choice}]"))

    def side_of(self, contestant: str) -> str:
        """Where the contestant's picture is, by its colour."""
        self.wait(lambda: self.driver.execute_script("return left.complete && right.complete"))
        sides = {CONTESTANT[self.driver.execute_script(PICTURE_COLOUR, side)]: side for side in ("left", "right")}
        return sides[contestant]

    def menu(self, action: str) -> None:
        self.click("#menu summary")
        self.click(f"#menu [data-do={action}]")

    def saved(self, profile: Path) -> Path:
        """The file that the last export wrote."""
        folder = profile / "downloads"
        self.wait(lambda: list(folder.glob("votes-*.json")))
        [path] = folder.glob("votes-*.json")
        return path

    def give(self, path: Path) -> None:
        """Choose a file to go on from."""
        self.driver.execute_script("document.getElementById('file').hidden = false")
        self.find("#file").send_keys(str(path))

    def asked(self) -> Alert:
        """The question that the browser asks."""
        return WebDriverWait(self.driver, 20, poll_frequency=0.05).until(alert_is_present())

    @property
    def complaints(self) -> list[str]:
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

"""`drtune watch`: what its server gives, and what a browser shows of a run that goes on meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from drtune.config import load_config
from drtune.contracts import CurvePoint
from drtune.errors import UserError
from drtune.files.local import write_text
from drtune.files.output import mark
from drtune.files.progress import Progress
from drtune.training.history import UpdateMetrics
from drtune.training.metrics import MetricLog
from drtune.training.watch import server_of, state_of
from tests.browser import PHONE, browser, needs_browser

CONFIG = load_config(None, ["steps=100", "rewards={my<b>.py:warm: 1}"])
START = 1_700_000_000.0


class Run:
    """A run that makes an update a call, one every two seconds by its own clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mark(folder, "TrainingRun")
        write_text(folder / "config.yaml", CONFIG.to_yaml())
        self.log = MetricLog(folder, 0, CONFIG, Progress("train", 100, "update"))

    def update(self, step: int, started: float = START, *, resumed: bool = False) -> None:
        at, memory = started + 2 * step, 3 * 2**30
        update = UpdateMetrics(step, step / 100, {}, 1.0, 1e-4, 11, (2, 5), 1.6, at, memory, resumed=resumed)
        self.log.write(update)

    def samples(self, step: int) -> None:
        point = CurvePoint(step=step, rewards={"my<b>.py:warm": step / 100})
        self.log.samples(point, [Image.new("RGB", (8, 8), "red")] * 2, ["a", "b"])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run")
    with made.log:
        yield made


@contextmanager
def served(folder: Path) -> Iterator[int]:
    with server_of(folder, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_it_tells_speed_memory_and_the_time_left(run: Run) -> None:
    assert state_of(run.folder, START)["status"] == "before its first update"
    for step in range(1, 31):
        run.update(step)
    state = state_of(run.folder, START + 61)
    assert (state["status"], state["done"]) == ("running", 0.3)
    assert state["facts"] == [
        ("updates", "30 of 100"),
        ("an update", "1.6 s of 8 pictures"),
        ("throughput", "5 pictures a second"),
        ("time left", "2 min 20 s"),
        ("memory, at most", "3 GiB"),
    ]
    later = state_of(run.folder, START + 60 + 600)
    assert later["status"] == "silent for 10 min"
    assert "time left" not in dict(later["facts"])
    write_text(run.folder / "manifest.json", "{}")
    assert state_of(run.folder, START + 660)["status"] == "finished"


def test_the_time_in_which_a_run_did_not_run_is_no_part_of_its_pace(run: Run) -> None:
    for step in range(1, 31):
        run.update(step, START + 3600 * (step > 20), resumed=step == 21)
    state = state_of(run.folder, START + 3661)
    assert dict(state["facts"])["time left"] == "2 min 20 s"
    assert state_of(run.folder, START + 3660 + 600)["status"] == "silent for 10 min"


def test_the_server_gives_the_page_the_state_and_samples_and_nothing_else(run: Run) -> None:
    run.samples(0)
    run.update(1)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')  # is being written
    with served(run.folder) as port:
        assert json.loads(get(port, "/state")[1])["facts"][0] == ["updates", "1 of 100"]
        assert b"<!doctype html>" in get(port, "/")[1]
        assert get(port, "/samples/step-000000.png")[1].startswith(b"\x89PNG")
        for path in (
            "/samples/step-000001.png",
            "/config.yaml",
            "/samples/../config.yaml",
            "/samples/",
            "//etc/passwd",
        ):
            assert get(port, path) == (404, b"not here")
        (run.folder / "metrics.jsonl").write_text("[]\n")
        assert get(port, "/state")[0] == 500
        with pytest.raises(UserError, match=rf"--port {port}: Address already in use; give another"):
            server_of(run.folder, port)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no training, or none yet"):
            server_of(folder, 0)


@needs_browser
def test_a_browser_follows_the_run_to_its_end(run: Run, tmp_path: Path) -> None:
    run.samples(0)
    for step in range(1, 21):
        run.update(step, started=time.time() - 60)
    run.samples(20)
    with served(run.folder) as port, browser(tmp_path / "profile", size=PHONE) as driver:
        wait = WebDriverWait(driver, 10)
        driver.get(f"http://127.0.0.1:{port}/")
        wait.until(lambda _: driver.find_element(By.ID, "status").text == "running")
        assert "20 of 100" in driver.find_element(By.ID, "facts").text
        names = [text.text for text in driver.find_elements(By.CSS_SELECTOR, "#charts .name")]
        assert names == ["reward while tuning", "warm"]
        assert driver.find_element(By.ID, "newest").get_attribute("src").endswith("step-000020.png")
        wait.until(lambda _: driver.execute_script("return document.getElementById('newest').naturalWidth") > 500)
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

        driver.execute_script(
            "const when = document.getElementById('when'); when.value = 0; when.dispatchEvent(new Event('input'))"
        )
        run.update(21, started=time.time())
        run.samples(40)
        write_text(run.folder / "manifest.json", "{}")
        wait.until(lambda _: driver.find_element(By.ID, "status").text == "finished")
        assert driver.find_element(By.ID, "newest").get_attribute("src").endswith("step-000000.png")  # as chosen
        assert driver.find_element(By.ID, "when").get_attribute("max") == "2"
        assert driver.get_log("browser") == []

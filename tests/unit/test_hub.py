"""Files of the hub: one that is away is not waited for, one that answers is asked with patience."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import COMMIT, Hub
from tests.serving import Handler, Serving

READ = """
from drtune.errors import UserError
from drtune.models.index import commit_of, read_index
try:
    print(read_index("owner/name"), commit_of("owner/name"))
except UserError as error:
    print(error)
"""


def read_from(endpoint: str, cache: Path) -> str:
    """What a fresh process prints: the hub's client reads its environment once, when imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    ran = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout


def test_a_file_that_the_hub_has_is_downloaded_and_then_found_without_it(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.repositories["owner/name"] = {"model_index.json": b'{"_class_name": "ZImagePipeline"}'}
        assert read_from(hub.url, tmp_path) == f"{{'_class_name': 'ZImagePipeline'}} {COMMIT}\n"
    assert read_from(hub.url, tmp_path) == f"{{'_class_name': 'ZImagePipeline'}} {COMMIT}\n"


def test_a_proxy_that_leads_in_a_circle_is_a_hub_that_is_away(tmp_path: Path) -> None:
    class Circle(Handler):
        def do_HEAD(self) -> None:
            self.send_response_only(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with Serving(Circle) as server:
        told = read_from(server.url, tmp_path)
    assert "base_model='owner/name', base_revision=None: cannot be loaded: no such folder, the hub cannot be" in told


@pytest.mark.parametrize("answer", ["", "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"])
def test_of_a_hub_that_hangs_up_or_leads_in_a_circle_the_cache_will_do(tmp_path: Path, answer: str) -> None:
    with Hub() as hub:
        hub.repositories["owner/name"] = {"model_index.json": b'{"_class_name": "ZImagePipeline"}'}
        there = read_from(hub.url, tmp_path)

    class Away(Handler):
        def do_HEAD(self) -> None:
            self.wfile.write(answer.encode())
            self.close_connection = True

    with Serving(Away) as server:
        assert read_from(server.url, tmp_path) == there


def test_a_hub_that_is_away_is_asked_twice(tmp_path: Path) -> None:
    asked = []

    class HangsUp(Handler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.close_connection = True

    with Serving(HangsUp) as server:
        told = read_from(server.url, tmp_path)
    assert "base_model='owner/name', base_revision=None: cannot be loaded: no such folder, the hub cannot be" in told
    assert len(asked) == 2

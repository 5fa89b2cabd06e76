"""What a node posts of its training to Kubeflow Trainer, which stands in here as pkg/statusserver/server.go has it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from drtune.training.history import METRICS, UpdateMetrics
from drtune.training.trainer_status import CERTIFICATE, NODE, TOKEN, URL, shown_in_trainer
from tests.relay import make_certificate
from tests.serving import JSON, Handler, Serving

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs/drtune-1/status"
WORD = {"type": "string", "minLength": 1, "maxLength": 64}
STATUS = {  # TrainerStatus and Metric in pkg/apis/trainer/v1alpha1/trainjob_types.go:563 to 605 of v2.3.0-rc.3
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "progressPercentage": {"type": "integer", "minimum": 0, "maximum": 100},
        "estimatedRemainingSeconds": {"type": "integer", "minimum": 0},
        "lastUpdatedTime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"},
        "metrics": {
            "type": "array",
            "maxItems": 256,
            "items": {"type": "object", "properties": {"name": WORD, "value": WORD}, "required": ["name", "value"]},
        },
    },
}


class Trainer(Serving):
    """Takes what is posted with the token; anything else is forbidden."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        super().__init__(_Handler, certificate)
        self.posted: list[dict[str, Any]] = []


class _Handler(Handler):
    server: Trainer

    def do_POST(self) -> None:
        body = json.loads(self.body())
        allowed = (self.path, self.headers["Authorization"]) == (PATH, "Bearer a token")
        if allowed:
            jsonschema.validate(body["trainerStatus"], STATUS)
            self.server.posted.append(body["trainerStatus"])
        self.send(200 if allowed else 403, JSON, "{}")


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[tuple[Trainer, dict[str, str]]]:
    certificate = make_certificate(tmp_path) or pytest.skip("needs openssl")
    (tmp_path / "token").write_text("a token\n")
    with Trainer(certificate) as server:
        yield server, {URL: server.url + PATH, CERTIFICATE: str(certificate[0]), TOKEN: str(tmp_path / "token")}


def log(folder: Path, step: int) -> None:
    folder.mkdir(exist_ok=True)
    update = UpdateMetrics(step, 0.5, {"symmetry": 0.6, "x" * 99: 0.1}, 1.0, 1e-4, 9, (1, 2), 2.0, at=1e9 + 2 * step)
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(asdict(update)) + "\n")


def test_the_first_node_shows_how_far_it_is_until_the_end(
    trainer: tuple[Trainer, dict[str, str]], tmp_path: Path
) -> None:
    server, environment = trainer
    with shown_in_trainer(tmp_path / "run", 8, environment, pause_seconds=0.02):
        time.sleep(0.1)
        assert server.posted == []  # there is nothing yet
        log(tmp_path / "run", 1)
        log(tmp_path / "run", 2)
        give_up = time.monotonic() + 20
        while not server.posted and time.monotonic() < give_up:
            time.sleep(0.02)
        log(tmp_path / "run", 8)
    halfway, end = server.posted[0], server.posted[-1]
    assert (halfway["progressPercentage"], halfway["estimatedRemainingSeconds"]) == (25, 12)
    assert {"name": "symmetry", "value": "0.6"} in halfway["metrics"]
    assert (end["progressPercentage"], end["estimatedRemainingSeconds"]) == (100, 0)


@pytest.mark.parametrize("wrong", [{TOKEN: "/nowhere"}, {URL: "https://127.0.0.1:9/"}, {CERTIFICATE: "/nowhere"}])
def test_what_does_not_arrive_is_told_once_and_changes_nothing(
    trainer: tuple[Trainer, dict[str, str]], tmp_path: Path, wrong: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    log(tmp_path / "run", 1)
    with shown_in_trainer(tmp_path / "run", 8, trainer[1] | wrong, pause_seconds=0.02):
        time.sleep(0.2)
    assert capsys.readouterr().err.count("the TrainJob's status does not show how far this is") == 1


def test_other_nodes_and_other_jobs_post_nothing(trainer: tuple[Trainer, dict[str, str]], tmp_path: Path) -> None:
    server, environment = trainer
    log(tmp_path / "run", 1)
    for elsewhere in (environment | {NODE: "1"}, {}):
        with shown_in_trainer(tmp_path / "run", 8, elsewhere, pause_seconds=0.01):
            time.sleep(0.05)
    assert server.posted == []

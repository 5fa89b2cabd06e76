"""What arrives at a webhook, and that nothing else hangs on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.errors import InterruptionError, UserError
from drtune.files.webhook import telling
from tests.web import Web

SHORT = ["steps=1", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "processes=1"]


@pytest.fixture
def chat() -> Iterator[Web]:
    with Web() as web:
        web.answers["/secret"] = (200, "")
        yield web


def got(chat: Web) -> list[dict[str, Any]]:
    return [json.loads(asked.body) for asked in chat.asked]


def test_a_training_that_ended_well_is_told(chat: Web, tmp_path: Any) -> None:
    options = [f"--set={override}" for override in SHORT]
    result = CliRunner().invoke(main, ["train", f"--out={tmp_path / 'run'}", f"--webhook={chat.url}/secret", *options])
    assert result.exit_code == 0, result.output
    [message] = got(chat)
    assert (message["status"], message["what"]) == ("finished", f"drtune train {tmp_path / 'run'}")
    assert message["text"].startswith(f"drtune train {tmp_path / 'run'} finished: 1 updates, reward 0.")
    assert "secret" not in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (UserError("steps=3: give more"), "failed", "steps=3: give more"),
        (SystemExit(137), "failed", "exit code 137"),
        (SystemExit(143), "stopped", "exit code 143"),
        (InterruptionError("stopped by SIGTERM\nand more", 15), "stopped", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ],
)
def test_another_end_is_told_and_goes_on(chat: Web, error: BaseException, status: str, detail: str) -> None:
    with pytest.raises(type(error)), telling(f"{chat.url}/secret", "it", lambda: "well"):
        raise error
    assert got(chat) == [{"text": f"it {status}: {detail}", "status": status, "what": "it", "detail": detail}]


def test_a_message_that_does_not_arrive_changes_nothing(chat: Web, capsys: pytest.CaptureFixture[str]) -> None:
    chat.answers["/secret"] = (500, "")
    for url in (f"{chat.url}/secret", "http://127.0.0.1:1/secret", "http://[/secret", f"{chat.url}/secret 2"):
        with telling(url, "it", lambda: "well"):
            pass
    said = capsys.readouterr().err.splitlines()
    reasons = ["Internal Server Error", "[Errno 111] Connection refused", *["its address is none"] * 2]
    assert said == [f"webhook: the message did not arrive ({reason})" for reason in reasons]


def test_what_is_no_address_is_refused_before_anything(tmp_path: Any) -> None:
    result = CliRunner().invoke(main, ["train", f"--out={tmp_path / 'run'}", "--webhook=ftp://x"])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])

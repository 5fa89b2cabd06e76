"""Keywords for flags, and Python's own interruption."""

from __future__ import annotations

import signal
from threading import Thread

import pytest

from drtune.errors import InterruptionError, UserError
from drtune.python.words import in_python, overrides
from drtune.training.interrupts import Interrupts


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("a: exists already; give --overwrite to replace it", "a: exists already; give overwrite=True to replace it"),
        ("start with --overwrite instead of --resume", "start with overwrite=True instead of resume=True"),
        ("--set steps=x: wanted a number", "steps=x: wanted a number"),
        ("prepare them again without --held-out", "prepare them again without held_out=True"),
        ("a picture of a cat--dog, --- and nothing", "a picture of a cat--dog, --- and nothing"),
    ],
)
def test_a_message_names_keywords(said: str, wanted: str) -> None:
    with pytest.raises(UserError) as caught, in_python():
        raise UserError(said)
    assert str(caught.value) == wanted


def test_an_interruption_is_pythons_own_and_says_how_to_go_on() -> None:
    line = "stopped by SIGINT after update 3 of 80, which is saved; go on with: drtune train --resume"
    with pytest.raises(KeyboardInterrupt) as caught, in_python("runs/cat"):
        raise InterruptionError(line, signal.SIGINT)
    assert str(caught.value) == (
        "stopped by SIGINT after update 3 of 80, which is saved; go on with the same call and out='runs/cat', "
        "resume=True"
    )
    with pytest.raises(InterruptionError), in_python("runs/cat"):
        raise InterruptionError(line, signal.SIGTERM)


def test_settings_become_texts_and_functions_their_names() -> None:
    settings = {"rewards": {min: 0.5, "hps": {"hinge": 0.3}}, "evaluation": {"rewards": ["hps", max]}, "compile": True}
    assert list(overrides(settings, lambda function: f"f.py:{function.__name__}")) == [
        'rewards={"f.py:min": 0.5, "hps": {"hinge": 0.3}}',
        'evaluation.rewards=["hps", "f.py:max"]',
        "compile=true",
    ]


def test_a_thread_that_is_not_the_main_one_can_train() -> None:
    """Python refuses to set a handler there."""
    received: list[object] = []

    def enter() -> None:
        with Interrupts() as interrupts:
            received.append(interrupts.received)

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert received == [None]

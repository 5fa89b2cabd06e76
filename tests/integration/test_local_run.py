"""kfp.local with real steps in real processes: what the display makes of it."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kfp import dsl

from pipelines.local.display import Failure
from pipelines.local.run import _by_links, run_here
from tests.lives import wait_until_gone


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dsl.component(base_image="drtune-platform:test", install_kfp_package=False)
def speak(text: str, said: dsl.Output[dsl.Artifact]) -> bool:
    import logging
    import pathlib

    logging.getLogger("a library").info("noise")
    for percent in range(0, 101, 2):
        print(f"counting: {percent}/100 steps, 1 s each")
    print("saying", text)
    pathlib.Path(said.path).write_text(text)
    return text == "go on"


@dsl.component(base_image="drtune-platform:test", install_kfp_package=False)
def fail(code: str) -> None:
    exec(code)


@dsl.pipeline(name="talk")
def talk(text: str, code: str) -> None:
    spoken = speak(text=text)
    with dsl.If(spoken.outputs["Output"] == True):  # noqa: E712 builds the condition, compares nothing
        fail(code=code)


def run(tmp_path: Path, text: str, code: str, terminal: io.StringIO) -> tuple[Failure | None, str]:
    log = io.StringIO()
    failure = run_here(talk, tmp_path / "steps", {"text": text, "code": code}, terminal, log)
    assert logging.getLogger().filters == []
    return failure, log.getvalue()


def test_what_is_finished_in_a_place_is_not_done_again_there(tmp_path: Path) -> None:
    first, second, third = io.StringIO(), io.StringIO(), io.StringIO()
    assert run(tmp_path, "go on", "raise SystemExit(3)", first)[0] is not None
    assert run(tmp_path, "go on", "raise SystemExit(3)", second)[0] is not None
    assert run(tmp_path, "go on", "", third)[0] is None
    assert ["saying go on" in screen.getvalue() for screen in (first, second, third)] == [True, False, False]
    assert all(" fail" in screen.getvalue() for screen in (first, second, third))


def test_steps_are_shown_with_their_output_and_without_the_noise_of_kfp(tmp_path: Path) -> None:
    screen = io.StringIO()
    failure, log = run(tmp_path, "hello", "", screen)
    lines = [line[10:] for line in screen.getvalue().splitlines()]
    counted = [f"counting: {percent}/100 steps, 1 s each" for percent in range(0, 101, 2)]
    assert failure is None
    assert lines[:-1] == ["speak", *counted, "saying hello"]
    assert lines[-1].startswith("speak done in ")
    assert "KFP Executor" in log
    assert next(tmp_path.glob("steps/*/speak/said")).read_text() == "hello"


def test_a_terminal_sees_one_progress_bar_that_moves(tmp_path: Path) -> None:
    screen = Terminal()
    _, log = run(tmp_path, "hello", "", screen)
    bar, *_ = [line for line in screen.getvalue().split("\n") if "counting" in line]
    states = [state.removesuffix("\x1b[K").strip() for state in bar.split("\r")[1:]]
    assert states == [f"counting: {percent}/100 steps, 1 s each" for percent in range(0, 101, 2)]
    assert log.count("counting: ") == len(states)
    assert "\r" not in log


def test_a_failing_step_is_named_with_its_message_alone(tmp_path: Path) -> None:
    screen = io.StringIO()
    code = "raise RuntimeError('the training failed; it wrote last:\\n  ValueError: loss is NaN')"
    failure, log = run(tmp_path, "go on", code, screen)
    assert failure == Failure("fail", "the training failed; it wrote last:\n  ValueError: loss is NaN", by_user=False)
    assert "Traceback" not in screen.getvalue()
    assert "Traceback" in log
    assert "fail FAILED after" in screen.getvalue()


def test_the_mistake_of_a_user_is_told_from_a_fault(tmp_path: Path) -> None:
    code = "from drtune.errors import UserError\nraise UserError('steps=0: give at least 1')"
    failure, _ = run(tmp_path, "go on", code, io.StringIO())
    assert failure == Failure("fail", "steps=0: give at least 1", by_user=True)


def test_a_step_that_was_killed_is_named(tmp_path: Path) -> None:
    failure, _ = run(tmp_path, "go on", "import os; os.kill(os.getpid(), 9)", io.StringIO())
    assert failure == Failure("fail", "it ended without saying why", by_user=False)


def test_a_traceback_that_a_step_survives_is_shown(tmp_path: Path) -> None:
    screen = io.StringIO()
    code = "import traceback\ntry: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\nprint('went on')"
    failure, _ = run(tmp_path, "go on", code, screen)
    assert failure is None
    assert "ZeroDivisionError: division by zero" in screen.getvalue()
    assert "went on" in screen.getvalue()


ENDLESS = """
import os, pathlib, sys
from components.process import run_process
code = "import os, pathlib, sys, time\\nfrom drtune.lifetime import mortal\\nwith mortal():\\n"
code += "    pathlib.Path(sys.argv[1]).write_text(f'{os.getppid()} {os.getpid()}')\\n    time.sleep(600)"
run_process([sys.executable, "-c", code, os.environ["STARTED"]])
"""
"""A step whose work says nothing, and so never notices by itself that nobody listens."""

RUN = """
import sys
from drtune.lifetime import as_command
from tests.integration.test_local_run import ENDLESS, run, Path
with as_command():
    run(Path(sys.argv[1]), "go on", ENDLESS, sys.stdout)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_pipeline_alone_ends_its_step_and_what_that_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    started = tmp_path / "started"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path)],
        env=os.environ | {"STARTED": str(started)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as pipeline:
        while not (started.exists() and len(started.read_text().split()) == 2):
            assert pipeline.poll() is None, pipeline.communicate()
            time.sleep(0.02)
        pipeline.send_signal(number)
        shown, said = pipeline.communicate()
    if number == signal.SIGKILL:
        assert pipeline.returncode == -number
    else:
        assert (pipeline.returncode, said) == (128 + number, f"stopped by {number.name}\n")
        assert shown.splitlines()[-1].endswith("fail stopped, and all that it had started")
        assert [path.name for path in (tmp_path / "steps").iterdir() if path.name.startswith("tmp-")] == []
    wait_until_gone(*map(int, started.read_text().split()))


def test_a_person_sees_an_artifact_by_its_link_which_is_there_while_the_step_still_runs(tmp_path: Path) -> None:
    place, link = tmp_path / "steps" / "talk-2026" / "train" / "model", tmp_path / "model"
    shown = _by_links(tmp_path, "talk")
    assert shown(f"loading {place}") == f"loading {link}"
    assert not link.exists()
    place.mkdir(parents=True)
    place.with_name("report.partial").mkdir()
    command = shown(f"go on: `drtune train --config={place}/config.yaml --out={place}`; {tmp_path}/steps/other/a/b")
    assert command == f"go on: `drtune train --config={link}/config.yaml --out={link}`; {tmp_path}/steps/other/a/b"
    assert link.resolve() == place
    assert [path.name for path in tmp_path.iterdir() if path.is_symlink()] == ["model"]

"""What a person sees of a pipeline that runs here: each step with its times, what it writes, and why it failed.

kfp.local tells of its steps through the root logger only, and mixes the output of a step with its own: here the two are
told apart. Everything, untouched, also goes to a log file.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass, field
from typing import Self, TextIO

from components.endings import TRACEBACK, reason_in
from drtune.files.progress import PROGRESS_LINE

_STARTED = re.compile(r"Executing task \S*'(?P<step>[^']+)'")
_ENDED = re.compile(r"Task \S*'(?P<step>[^']+)'\S* finished with status \S*(?P<status>SUCCESS|FAILURE)")
_EXECUTOR = "[KFP Executor "
_TOLD_AT_THE_END = ("report: ", "outcome: ")
"""Lines by which a step tells alone what the run's own last lines tell better: which report has the verdict."""
_REDRAW, _REST = "\r", "\x1b[K"


@dataclass
class Step:
    """One step: its name, when it started, and what it wrote from its last traceback on."""

    name: str
    started: float
    traceback: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """The step that failed, why, and whether the user can mend it."""

    step: str
    reason: str
    by_user: bool


class Display(io.TextIOBase, AbstractContextManager["Display"]):
    """Stands in for standard output and listens to kfp's log while a pipeline runs; `reword` changes lines of steps.

    with Display(sys.stdout, log, str) as display:
        tune(...)
    display.failure  # None when every step did its work
    """

    def __init__(self, terminal: TextIO, log: TextIO, reword: Callable[[str], str]) -> None:
        self.failure: Failure | None = None
        self._reword = reword
        self._terminal = terminal
        self._log = log
        self._redirection = redirect_stdout(self)
        self._step: Step | None = None
        self._rest = ""
        self._in_executor_input = False
        self._line_is_open = False

    def __enter__(self) -> Self:
        logging.getLogger().addFilter(self._hear)
        self._redirection.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._redirection.__exit__(None, None, None)
        logging.getLogger().removeFilter(self._hear)
        self._close_line()
        if self._step:
            self._say(f"{time.strftime('%H:%M:%S')}  {self._step.name} stopped, and all that it had started")

    def write(self, text: str) -> int:
        """Take what a step wrote, in pieces of any size."""
        self._log.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(self._reword(line.removeprefix("    ").rstrip()))
        return len(text)

    def flush(self) -> None:
        """Pass on."""
        self._terminal.flush()

    def _hear(self, record: logging.LogRecord) -> bool:
        """Follow kfp's log; True lets a record through to kfp's handler, which is standard output."""
        message = record.getMessage()
        if started := _STARTED.search(message):
            self._step = Step(started["step"], time.monotonic())
            self._say(f"{time.strftime('%H:%M:%S')}  {self._step.name}")
        elif (ended := _ENDED.search(message)) and self._step:
            self._end(self._step, succeeded=ended["status"] == "SUCCESS")
            self._step = None
        self._log.write(f"{record.levelname} {message}\n")
        return False

    def _end(self, step: Step, *, succeeded: bool) -> None:
        seconds = time.monotonic() - step.started
        if succeeded:
            for line in step.traceback:  # it was not the end after all
                self._say(f"          {line}")
            self._say(f"{time.strftime('%H:%M:%S')}  {step.name} done in {seconds:.1f} s")
        else:
            self.failure = _failure_of(step)
            self._say(f"{time.strftime('%H:%M:%S')}  {step.name} FAILED after {seconds:.1f} s")

    def _take(self, line: str) -> None:
        """Show one line of a step unless it is kfp's own."""
        if line.startswith(_EXECUTOR):
            self._in_executor_input = line.endswith("Got executor_input:")
        elif self._in_executor_input:
            self._in_executor_input = line != "}"
        elif not line.strip("- ") or self._step is None or line.startswith(_TOLD_AT_THE_END):
            pass
        elif line == TRACEBACK or self._step.traceback:
            self._step.traceback.append(line)
        elif self._terminal.isatty() and PROGRESS_LINE.fullmatch(line):
            self._redraw(line)
        else:
            self._say(f"          {line}")

    def _redraw(self, line: str) -> None:
        """Show how far a step is where the last such line was shown."""
        self._terminal.write(f"{_REDRAW}          {line}{_REST}")
        self._terminal.flush()
        self._line_is_open = True

    def _say(self, line: str) -> None:
        self._close_line()
        self._terminal.write(line + "\n")
        self._terminal.flush()

    def _close_line(self) -> None:
        if self._line_is_open:
            self._terminal.write("\n")
        self._line_is_open = False


def _failure_of(step: Step) -> Failure:
    if reason := reason_in("\n".join(step.traceback)):
        return Failure(step.name, "\n".join([reason.message, *reason.below]), reason.by_user)
    return Failure(step.name, "it ended without saying why", by_user=False)

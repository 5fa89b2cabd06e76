"""How far a loop is: a bar that moves on a terminal and in a notebook, whole lines everywhere else.

What collects the logs of a container knows lines only: a bar, which is one line that is drawn again and again, would
not be seen before its end.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Self, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
PROGRESS_LINE = re.compile(r"[^:]+: \d+/\d+ \w+s(, .+)?")
"""A line of `Progress`, for who shows what another process writes."""


class Progress:
    """Counts what is `done` of `total`, some of which may have been before.

    Where `stream` (standard error) is no terminal and no notebook, a line is written at each tenth of the work, and
    between them at most one every ten seconds; the last state always has its line:

        train: 40/100 updates, 2.1 s each, 2 min 6 s left, reward 0.612
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._stream, self._clock = stream or sys.stderr, clock
        self._before = self.done = done
        self._written: int | None = None
        self._shown: dict[str, str] = {}
        self._started = self._written_at = clock()
        self._bar = (
            _bar(self._stream)(total=total, initial=done, desc=label, unit=unit, mininterval=0.5, file=self._stream)
            if _shows_bars(self._stream)
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Show the last state."""
        if self._bar is not None:
            self._bar.close()
        elif self._written != self.done:
            self._write()

    def update(self, count: int = 1, **shown: str) -> None:
        """Count what was done, and show words beside it, by their names."""
        before = self.done
        self.done += count
        self._shown = shown
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(count)
            return
        is_late = self._clock() - self._written_at >= SECONDS_BETWEEN_LINES
        if is_late or self._tenth(before) != self._tenth(self.done):
            self._write()

    def _tenth(self, done: int) -> int:
        return 10 * done // max(1, self._total)

    def _write(self) -> None:
        self._written, self._written_at = self.done, self._clock()
        parts = [f"{self._label}: {self.done}/{self._total} {self._unit}s"]
        if number := self.done - self._before:
            each = (self._written_at - self._started) / number
            parts.append(f"{each:.2g} s each" if each < 10 else f"{spell(each)} each")
            if left := self._total - self.done:
                parts.append(f"{spell(left * each)} left")
        parts += [f"{name} {value}" for name, value in self._shown.items()]
        self._stream.write(", ".join(parts) + "\n")
        self._stream.flush()


def _bar(stream: TextIO) -> type[Any]:
    """Tqdm's bar for a terminal, or the one for a notebook where that can show it."""
    if _is_notebook(stream) and find_spec("ipywidgets"):  # without which tqdm.auto warns
        from tqdm.auto import tqdm as of_notebook

        return of_notebook
    return tqdm


def _is_notebook(stream: TextIO) -> bool:
    """Whether it is what a Jupyter kernel has for its output: no terminal, but it moves bars."""
    return type(stream).__module__ == "ipykernel.iostream"


def _shows_bars(stream: TextIO) -> bool:
    """Whether it is a notebook, or a terminal with a size.

    A terminal without one, as containers get where nobody looks on, would stay empty.
    """
    if _is_notebook(stream):
        return True
    return stream.isatty() and all(os.get_terminal_size(stream.fileno()))


def spell(seconds: float) -> str:
    """A duration as people say it.

    >>> spell(7384.2)
    '2 h 3 min 4 s'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if number]
    return " ".join(parts) or "0 s"

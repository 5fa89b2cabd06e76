"""SIGTERM and Ctrl-C as a question that a run asks between two updates, instead of an end in the midst of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Within, the signals are only noted. Python hands them to its main thread alone: a run in another gets none.

    >>> with Interrupts() as interrupts:
    ...     while not interrupts.received:
    ...         update()
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The last one that came."""

    def __enter__(self) -> Self:
        heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self.previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

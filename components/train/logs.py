"""The logs of a job's pods in the log of the step, line by line, each behind the ranks that wrote it."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from components.process import LINES_KEPT
from components.train.cluster import Cluster, NotFoundError
from drtune.errors import UserError

LONGEST_LINE = 1 << 16
"""Bytes; a longer line is shown in pieces of this size."""
LONGEST_PAUSE_SECONDS = 30.0
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class StepLog:
    """What the step writes, from several threads, one whole line after the other."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self._lock = out, threading.Lock()

    def say(self, text: str) -> None:
        """Write a line of the launcher's own."""
        self.write(f"{text}\n".encode())

    def write(self, lines: bytes) -> None:
        """Write whole lines."""
        with self._lock:
            self.out.write(lines)
            self.out.flush()


class PodLog(threading.Thread):
    """Follows what one pod writes until it is over and read to the end.

    A stream that breaks is taken up again where it was: the server is asked from the second of the last line on, and
    lines up to that one are left out.
    """

    def __init__(self, cluster: Cluster, pod: str, container: str, mark: str, log: StepLog) -> None:
        super().__init__(name=f"log of {pod}", daemon=True)
        self.cluster, self.pod, self.container, self.log = cluster, pod, container, log
        self.mark = f"[{mark}] ".encode()
        self.over = threading.Event()
        """Set when the pod has ended: what the server then has of its log is all there will be."""
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._time, self._same = b"", 0

    def last_lines(self) -> list[str]:
        """The last lines that were seen."""
        return list(self._last)

    def run(self) -> None:
        """Follow until the pod is over, the pod is gone, or the cluster is closed."""
        pause, is_last = 1.0, False
        while not is_last and not self.cluster.closed.is_set():
            is_last = self.over.is_set()  # asked before the stream is opened: this one will then have all
            try:
                chunks = self.cluster.log(self.pod, self.container, self._time.decode())
                seen = self._show(_in_lines(chunks, ends_whole=is_last))
            except NotFoundError:
                return
            except UserError as error:  # the training itself goes on
                self.log.say(f"no log of pod {self.pod}: {error}")
                return
            pause = 1.0 if seen else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self.over.wait(0.0 if is_last else pause)

    def _show(self, batches: Iterable[list[bytes]]) -> bool:
        """Write what is new of a stream; whether there was anything."""
        known, skipped = _order(self._time), 0
        seen = False
        for lines in batches:
            shown = []
            for line in lines:
                time, _, text = line.partition(b" ")
                if known:
                    order = _order(time)
                    if order < known:
                        continue
                    if order == known and skipped < self._same:
                        skipped += 1
                        continue
                    known = ""
                self._same = self._same + 1 if time == self._time else 1
                self._time = time
                shown.append(self.mark + text + b"\n")
            if shown:
                seen = True
                last = (line.removeprefix(self.mark) for line in shown[-LINES_KEPT:])
                self._last.extend(line.decode(errors="replace").rstrip() for line in last)
                self.log.write(b"".join(shown))
        return seen


def _in_lines(chunks: Iterable[bytes], *, ends_whole: bool) -> Iterator[list[bytes]]:
    """The lines in a stream of bytes, as many at a time as came together.

    What stands behind the last newline counts only if the stream `ends_whole`; else it is read again, with its end.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines.append(rest)
            rest = rest.partition(b" ")[0] + b" "  # the next piece has the time of the first
        yield lines
    if rest and ends_whole:
        yield [rest]


def _order(time: bytes) -> str:
    """An RFC 3339 time so that text compares as time does; empty for what is no time."""
    found = _TIME.fullmatch(time.decode(errors="replace"))
    if not found:
        return ""
    seconds = datetime.fromisoformat(found[1] + found[3]).astimezone(UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{found[2] or '':0<9}"  # datetime itself knows no nanoseconds

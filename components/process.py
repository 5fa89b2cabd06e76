"""Start a program as its own process, show what it writes, and remember why it failed.

This is how a step does heavy work: the step itself never imports torch, the program that it starts does.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.endings import by_address, mistake_in
from drtune.errors import UserError
from drtune.files.output import locked
from drtune.lifetime import ending_with_us, mortal

LINES_KEPT = 15
EARLIER = "DRTUNE_EARLIER_RUN"
"""The environment's name for the folders of a run on this machine that was ended and is gone on with, a line each: the
newest first, since a step that could not even begin leaves an empty one."""


def run_process(command: Sequence[str]) -> None:
    """Run `command` to its end, passing on each line that it writes (to standard error too) as it comes.

    The child ends with this process: SIGTERM, Ctrl-C and a reader that went away are passed on to it. A command of
    drtune also ends by itself when this process is killed (drtune/lifetime.py).

    Raises:
        UserError: the child ended with the exit code of a user's mistake; the message is its error line.
        RuntimeError: the child failed otherwise; the message holds its exit code and its last lines, indented.
    """
    line, last = b"\n", deque[str](maxlen=LINES_KEPT)
    with (
        mortal(),
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        ) as child,
        ending_with_us([child]),
    ):
        assert child.stdout is not None
        for line in map(_with_addresses, child.stdout):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if text := line.decode(errors="replace").rstrip():
                last.append(text)
    if child.returncode == 0:
        return
    if not line.endswith(b"\n"):
        print(flush=True)  # what is said about the failure begins on a line of its own
    if child.returncode == UserError.exit_code and (mistake := mistake_in(last)):
        raise UserError(mistake)
    ending = (
        f"exit code {child.returncode}" if child.returncode > 0 else f"signal {signal.Signals(-child.returncode).name}"
    )
    raise RuntimeError("\n  ".join([f"{shlex.join(command)} ended with {ending}; it wrote last:", *last]))


def _with_addresses(line: bytes) -> bytes:
    """In a pod, with artifacts called by their addresses."""
    return os.fsencode(by_address(os.fsdecode(line))) if "KUBERNETES_SERVICE_HOST" in os.environ else line


def take_up(out: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Move here what a step left last at such a place, <step>/<artifact>, when its run was ended, if it did.

    Raises:
        UserError: a process of that run still writes there.
    """
    for earlier in environment.get(EARLIER, "").splitlines():
        if (left := Path(earlier, *out.parts[-2:])).exists():
            with locked(left):
                left.replace(out)
            return

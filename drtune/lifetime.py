"""How a process ends: with a clean-up when a signal asks for it, and with the one that it works for; what it took."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from drtune.errors import InterruptionError, UnusableFileError, UserError, out_of_memory

GRACE_SECONDS = 20.0
"""How long a process may take to end after SIGTERM, which lets a training save its state, before it is killed."""
SECONDS_BETWEEN_LOOKS = 0.5
_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "give another place",
    errno.EACCES: "give another place",
    errno.EPERM: "give another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "give another path",
    errno.ENOTDIR: "give another path",
    errno.EISDIR: "give the path of a file",
}
"""What mends what the system says of a file. Others, such as one that is not there, may be faults of ours."""
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def as_command(*, with_parent: bool = False) -> Iterator[None]:
    """Within, what the user can mend ends the process with one line `error: ...`, an interruption with its own line.

    It is `mortal` too, and hands `with_parent` on.

    Raises:
        SystemExit: with the exit code of either.
    """
    # Only transformers' errors are news; it reads this when it is first imported, by the command.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with mortal(with_parent=with_parent):
            yield
    except UserError as error:
        line, exit_code = f"error: {' '.join(str(error).splitlines())}", error.exit_code  # names may hold newlines
    except InterruptionError as interrupted:
        line, exit_code = str(interrupted), interrupted.exit_code
    except (RuntimeError, MemoryError) as error:
        if (told := out_of_memory(error)) is None:
            raise
        line, exit_code = f"error: {told}", told.exit_code
    except OSError as error:
        is_known = isinstance(error, UnusableFileError)
        if (fix := "give another file" if is_known else _FIXES.get(error.errno or 0)) is None:
            raise
        name = str(error.filename or "output")
        shown = name if name.isprintable() and len(name) < 200 else f"{name[:100]!a}..."
        line, exit_code = f"error: {shown}: {error.strerror}; {fix}", UserError.exit_code
    else:
        return
    print(line, file=sys.stderr)
    raise SystemExit(exit_code)


@contextmanager
def mortal(*, with_parent: bool = False) -> Iterator[None]:
    """Within, a signal ends the process by an exception, and it does not outlive the one that it works for.

    SIGTERM and Ctrl-C raise InterruptionError, so that temporary files go and children are ended. Where they are
    ignored, as under nohup, or handled by somebody else, they still are. A process whose standard output is a pipe that
    nobody can read from any more gets SIGTERM by itself, and after GRACE_SECONDS SIGKILL. So each process of a pipeline
    ends with the one that started it, whatever ended that, and whatever shell stands between them.

    Args:
        with_parent: End as well when the parent is gone, for a process whose output goes elsewhere.
    """
    ours = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) in _DEFAULTS]
    previous = {number: signal.signal(number, _interrupt) for number in ours}
    left = threading.Event()
    threading.Thread(target=_watch, args=(os.getppid() if with_parent else None, left), daemon=True).start()
    try:
        yield
    finally:
        left.set()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def ending_with_us(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End the children, all at once, when the block ends by an exception; they may be started within."""
    try:
        yield
    except BaseException:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        raise


def most_resident(used: resource.struct_rusage) -> int:
    """The most bytes of main memory at once; macOS counts them in bytes, Linux in kibibytes."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Once: the clean-up is not interrupted, but by a second Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise InterruptionError(f"stopped by {signal.Signals(number).name}", number)


def _watch(parent: int | None, left: threading.Event) -> None:
    """End this process when `parent` or the reader of its output is gone."""
    poll = select.poll()
    if _is_pipe(1):
        poll.register(1, 0)  # errors alone: that of a pipe is that its reader is gone
    while not left.wait(SECONDS_BETWEEN_LOOKS):
        if (parent and os.getppid() != parent) or poll.poll(0):
            os.kill(os.getpid(), signal.SIGTERM)
            if not left.wait(GRACE_SECONDS + 5):  # it may itself wait so long for its children
                os.kill(os.getpid(), signal.SIGKILL)
            return


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:  # closed
        return False

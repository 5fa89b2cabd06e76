"""The exceptions that end a command with one line instead of a traceback, and how they end it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in what the user gave: one line that names the thing, its value and the fix.

    Commands print it without a traceback and exit with `exit_code`; every other exception is a fault of ours and shows
    its own.
    """

    exit_code = 2


class AwayError(UserError):
    """A service has not answered for as long as is waited for it."""


class InterruptionError(BaseException):
    """A signal ended the run once its state was safe; the message is one line that says how to go on.

    Like KeyboardInterrupt it is no failure: all processes of a run raise it together.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """As shells count: 143 for SIGTERM, which torchrun and Kubernetes take as a reason to start again."""


_PLACES_THAT_CANNOT_BE_WRITTEN = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "give another place",
    errno.EACCES: "give another place",
}


@contextmanager
def as_command() -> Iterator[None]:
    """Within, what the user can mend ends the process with one line `error: ...`, an interruption with its own line.

    Raises:
        SystemExit: with the exit code of either.
    """
    # Only transformers' errors are news; it reads this when it is first imported, by the command.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except UserError as error:
        line, exit_code = f"error: {error}", error.exit_code
    except InterruptionError as interrupted:
        line, exit_code = str(interrupted), interrupted.exit_code
    except OSError as error:
        if (fix := _PLACES_THAT_CANNOT_BE_WRITTEN.get(error.errno or 0)) is None:
            raise
        line, exit_code = f"error: {error.filename or 'output'}: {error.strerror}; {fix}", UserError.exit_code
    else:
        return
    print(line, file=sys.stderr)
    raise SystemExit(exit_code)

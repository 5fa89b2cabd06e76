"""The exceptions that end a command with one line instead of a traceback (drtune/lifetime.py says how)."""

from __future__ import annotations

import re


class UserError(Exception):
    """A mistake in what the user gave: one line that names the thing, its value and the fix.

    Commands print it without a traceback and exit with `exit_code`; every other exception is a fault of ours and shows
    its own.
    """

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"error: {self}"]


class AwayError(UserError):
    """A service has not answered for as long as is waited for it."""


class UnusableFileError(OSError):
    """A file that a user named is none that can be read.

    It is a pipe, a device, a giant, or one that S3 does not give, or no file can have such a name.
    """


class InterruptionError(SystemExit):
    """A signal ended the run once its state was safe; the message is one line that says how to go on.

    It is no failure: all processes of a run raise it together, and uncaught it ends a process without a word.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = self.exit_code = 128 + signal_number
        """As shells count: 143 for SIGTERM, which torchrun and Kubernetes take as a reason to start again."""


def out_of_memory(error: Exception) -> UserError | None:
    """What the user can do about an error that says that memory is out; None: it says something else.

    torch has a type for a GPU's, known by its name here, where torch is not imported, and none for its CPU allocator's.
    """
    is_of_gpu, text = type(error).__name__ == "OutOfMemoryError", str(error)
    if not (is_of_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in text):
        return None
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    return UserError(
        f"memory: the {'GPU' if is_of_gpu else 'machine'} has not {asked[1] if asked else 'enough'} left; train with a "
        "smaller compute.micro_batch_size or rollout_batch_size (`drtune plan --gpu SIZE` tells what fits), evaluate "
        "with a smaller evaluation.batch_size"
    )

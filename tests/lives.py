"""Whether processes live on."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest


def wait_until_gone(*pids: int, seconds: float = 30) -> None:
    """Fail if one of the processes is there after so long, and end it."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"processes {left} live on")
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids_of(word: str) -> list[int]:
    """The processes with that word in their command lines."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if word in line]

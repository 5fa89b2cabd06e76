import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lives import wait_until_gone

WORKING = """
import os, pathlib, signal, sys, tempfile, time
from drtune.lifetime import as_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
with as_command(with_parent=True), tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    (pathlib.Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
"""


def at_work(folder: Path) -> int:
    """The number of the process that works in `folder`, once it does."""
    while not (found := list(folder.glob("*/*"))):
        time.sleep(0.02)
    return int(found[0].name)


def test_a_signal_ends_a_command_with_one_line_and_takes_its_temporary_folders_along(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-c", WORKING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            os.kill(at_work(tmp_path), number)
            _, said = process.communicate()
        assert (process.returncode, said) == (128 + number, f"stopped by {number.name}\n")
        assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    command = ["sh", "-c", 'trap "" TERM; exec "$@"', "sh", sys.executable, "-c", WORKING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        os.kill(at_work(tmp_path), signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 128 + signal.SIGINT


def test_a_process_that_is_told_to_ends_with_its_parent(tmp_path: Path) -> None:
    """Whose death it cannot see by its output."""
    parent = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {WORKING!r}, {str(tmp_path)!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL) as process:
        pid = at_work(tmp_path)
        process.kill()
    wait_until_gone(pid)
    assert list(tmp_path.iterdir()) == []

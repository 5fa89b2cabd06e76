import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from drtune.errors import UserError, out_of_memory
from drtune.lifetime import as_command
from drtune.python.words import in_python
from tests.lives import wait_until_gone

WORKING = """
import os, pathlib, sys, tempfile, time
from drtune.lifetime import as_command
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


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (lambda: torch.empty(2**50, dtype=torch.uint8), "the machine has not 1125899906842624 bytes left"),
        (lambda: np.empty(2**50, dtype=np.uint8), "the machine has not enough left"),
    ],
)
def test_memory_that_is_out_is_one_line_that_says_what_helps(
    allocate: Callable[[], object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, as_command():
        allocate()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: memory: {told}; train with a smaller compute.micro_batch_size or ")
    assert said.count("\n") == 1
    with pytest.raises(UserError, match=told), in_python():
        allocate()


def test_the_memory_of_a_gpu_is_told_apart_and_other_errors_are_faults_of_ours() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.6")
    assert str(out_of_memory(full)).startswith("memory: the GPU has not 2.50 GiB left; ")
    with pytest.raises(RuntimeError, match="shapes"), as_command():
        raise RuntimeError("shapes differ")


def test_a_process_that_is_told_to_ends_with_its_parent(tmp_path: Path) -> None:
    """Whose death it cannot see by its output."""
    parent = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {WORKING!r}, {str(tmp_path)!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL) as process:
        pid = at_work(tmp_path)
        process.kill()
    wait_until_gone(pid)
    assert list(tmp_path.iterdir()) == []

"""Seconds an update of the miniature on a free machine, and beside one and two busy processes at nice 10.

python -m benchmarks.busy [updates]

Each way of using the machine runs as `drtune train` does it: in processes of its own, which begin anew for each figure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from drtune.models.miniature.cores import cores
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare
from drtune.training.history import read_metrics

TIMEOUT_SECONDS = 600
WAYS = {
    "one process, default threads": ("1", str(cores())),
    "one process, one thread": ("1", "1"),
    "the default: processes of one thread": ("null", None),
}
"""For each way `processes` and OMP_NUM_THREADS, which None leaves to drtune."""


def main() -> None:
    """Print the table, a row for each way."""
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    print(f"{cores()} cores; median seconds an update over the last {updates - 2} of {updates}\n")
    print(f"| {'':36} | free | beside one | beside two |\n| {'-' * 36} | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts"
        prompts.with_suffix(".txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=200)))
        prepare(prompts.with_suffix(".txt"), prompts)
        for way, (processes, threads) in WAYS.items():
            row = []
            for busy in range(3):
                out = Path(folder) / "out"
                with _busy(busy):
                    row.append(_seconds(processes, threads, updates, prompts, out))
            print(f"| {way:36} | {' | '.join(row)} |", flush=True)


def _seconds(processes: str, threads: str | None, updates: int, prompts: Path, out: Path) -> str:
    """Of an update, without the first two; how many there were if time ran out."""
    options = [f"steps={updates}", f"processes={processes}", "sample_every=1000", "checkpoint_every=1000"]
    command = [sys.executable, "-m", "drtune.cli.main", "train", "--config=configs/miniature.yaml", "--overwrite"]
    command += [f"--prompts={prompts}", f"--out={out}", *(f"--set={option}" for option in options)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as run:
        try:
            code = run.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            run.terminate()
            return f"over {TIMEOUT_SECONDS} s"
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return f"{median(update.seconds for update in read_metrics(out)[2:]):.2f}"


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Within, so many processes compute all the time, at a lower priority."""
    command = ["nice", "-n", "10", sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()

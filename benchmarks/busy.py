"""Seconds an update and a picture of the miniature take, free and beside one and two busy processes at nice 10.

python -m benchmarks.busy [updates]

Each way of using the machine runs as `drtune train` and `drtune evaluate` do it: in processes of its own, which begin
anew for each figure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from drtune.models.miniature.cores import cores
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare
from drtune.training.history import read_metrics

TIMEOUT_SECONDS = 200
PICTURES = 512
"""That an evaluation draws."""
TRAININGS = {
    "one process, default threads": ("1", str(cores())),
    "one process, one thread": ("1", "1"),
    "the default: processes of one thread": ("null", None),
}
"""For each way `processes` and OMP_NUM_THREADS, which None leaves to drtune."""
EVALUATIONS = {"one process, default threads": str(cores()), "the default: processes of one thread": None}
"""For each way OMP_NUM_THREADS."""


def main() -> None:
    """Print two tables, a row for each way."""
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts"
        prompts.with_suffix(".txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=400)))
        prepare(prompts.with_suffix(".txt"), prompts)
        _head(f"{cores()} cores; median seconds an update over the last {updates - 2} of {updates}")
        for way, (processes, threads) in TRAININGS.items():
            _row(way, partial(_update, processes, threads, updates, prompts, Path(folder) / "model"))
        _head(f"seconds a picture, drawn and scored, over {PICTURES}")
        for way, threads in EVALUATIONS.items():
            _row(way, partial(_picture, threads, prompts, Path(folder)))


def _head(title: str) -> None:
    print(f"\n{title}\n\n| {'':36} | free | beside one | beside two |\n| {'-' * 36} | ---: | ---: | ---: |", flush=True)


def _row(way: str, figure: Callable[[], str]) -> None:
    row = []
    for busy in range(3):
        with _busy(busy):
            row.append(figure())
    print(f"| {way:36} | {' | '.join(row)} |", flush=True)


def _update(processes: str, threads: str | None, updates: int, prompts: Path, out: Path) -> str:
    """Seconds of an update, without the first two."""
    settings = [f"steps={updates}", f"processes={processes}", "sample_every=1000", "checkpoint_every=1000"]
    places = ["--config=configs/miniature.yaml", f"--prompts={prompts}", f"--out={out}", "--overwrite"]
    if _said(threads, ["train", *places, *(f"--set={setting}" for setting in settings)]) is None:
        return f"over {TIMEOUT_SECONDS} s in all"
    return f"{median(update.seconds for update in read_metrics(out)[2:]):.2f}"


def _picture(threads: str | None, prompts: Path, folder: Path) -> str:
    """Seconds of a picture of base or model, as the progress tells them at the end."""
    settings = [f"evaluation.max_prompts={PICTURES // 4}", "evaluation.pictures_per_prompt=2"]
    places = [f"--model={folder / 'model'}", f"--prompts={prompts}", f"--out={folder / 'report'}", "--overwrite"]
    said = _said(threads, ["evaluate", *places, *(f"--set={setting}" for setting in settings)])
    return re.findall(r"([\d.]+) s each", said)[-1] if said else f"over {TIMEOUT_SECONDS} s in all"


def _said(threads: str | None, arguments: list[str]) -> str | None:
    """What a command of drtune writes to standard error; None if time ran out."""
    command = [sys.executable, "-m", "drtune.cli.main", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            _, said = run.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            run.kill()
            return None
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}: {said}")
    return said


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

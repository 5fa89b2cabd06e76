"""Kill a run with SIGKILL at random moments, resume it each time, and see that it ends as if nothing had happened.

python -m benchmarks.kills [count]

A short run on the miniature is made once without a kill. Every trial then starts it anew, kills it after a random
number of updates and a random part of the time that one takes with all that follows it, and resumes it. The prompts
are few, so that they repeat: what a process has computed before must not change what it computes next. Equal means:
the last checkpoint (weights, optimizer, average, held-out checks) and the tuned weights have the digests of the whole
run, and metrics.jsonl has its lines, but for what no two runs share.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from drtune.contracts import CONFIG, MANIFEST, TunedModel
from drtune.files.local import sha256_bytes
from drtune.files.scratch import SCRATCH
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare
from drtune.training.history import METRICS

FOLDER = Path("runs/kills")
SEED = 0
"""Of the moments."""
SETTINGS = (
    "steps=12",
    "processes=1",
    "batch_size=6",
    "rewards={symmetry: 1, preference: 1}",
    "sampler.steps=4",
    "method.trained_steps=2",
    "method.early_stop=2",
    "evaluation.sampler.steps=2",
    "optimizer.warmup_steps=3",
    "optimizer.schedule=cosine",
    "ema_decay=0.9",
    "checkpoint_every=2",
    "sample_every=4",
    "held_out={reward: brightness, max_drop: 1}",
)


@dataclass(frozen=True)
class End:
    """What a run has come to."""

    weights_sha256: str
    checkpoint: str
    """Name of the last one, which has its digest."""
    log_sha256: str
    """Of metrics.jsonl without what no two runs share."""


def main() -> None:
    """Run all trials and print the table; end with exit code 1 if one ends otherwise than the whole run."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "captions.txt").write_text("".join(f"{scene.caption}\n" for scene in scenes(seed=7, count=24)))
    prepare(FOLDER / "captions.txt", FOLDER / "prompts")

    whole = FOLDER / "whole"
    _start(whole).wait()
    expected = _end_of(whole)
    seconds = (whole / MANIFEST).stat().st_mtime - (whole / CONFIG).stat().st_mtime
    print(f"whole run: {seconds:.1f} s, last checkpoint {expected.checkpoint}")
    print("kill  at update  checkpoints  finished  resumed run")
    moments = random.Random(SEED)
    updates = len((whole / METRICS).read_bytes().splitlines())
    equal = sum(
        _trial(number, moments.randrange(updates + 1), moments.uniform(0, seconds / updates), expected)
        for number in range(1, count + 1)
    )
    print(f"{equal} of {count} ends are bit-identical")
    raise SystemExit(equal < count)


def _trial(number: int, updates: int, seconds: float, expected: End) -> bool:
    """One kill, so many seconds after so many updates were logged, and one resume."""
    out = FOLDER / f"kill-{number:02d}"
    run = _start(out)
    while run.poll() is None and _logged(out) < updates:
        time.sleep(0.005)
    time.sleep(seconds)
    run.kill()
    run.wait()
    logged, checkpoints = _logged(out), len(list(out.glob("checkpoints/step-*")))
    finished = "yes" if (out / MANIFEST).exists() else "no"
    _start(out, "--resume").wait()
    equal = _end_of(out) == expected
    verdict = "equal" if equal else "DIFFERENT"
    print(f"{number:4}  {logged:9}  {checkpoints:11}  {finished:8}  {verdict}", flush=True)
    return equal


def _logged(out: Path) -> int:
    """Updates in the log; -1 before the run has written its first file, beside its place until it made an update."""
    if (log := out / METRICS).exists():
        return log.read_bytes().count(b"\n")
    return 0 if any(out.parent.glob(f".{out.name}.*{SCRATCH}")) else -1


def _start(out: Path, *options: str) -> subprocess.Popen[bytes]:
    settings = [f"--set={setting}" for setting in SETTINGS]
    command = [sys.executable, "-m", "drtune.cli.main", "train", f"--prompts={FOLDER / 'prompts'}", f"--out={out}"]
    return subprocess.Popen([*command, *settings, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end_of(out: Path) -> End:
    lines = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    own = ("seconds", "at", "memory", "resumed")
    shared = [{key: value for key, value in line.items() if key not in own} for line in lines]
    return End(
        weights_sha256=TunedModel.load(out).weights_sha256,
        checkpoint=max(path.name for path in out.glob("checkpoints/step-*")),
        log_sha256=sha256_bytes(json.dumps(shared).encode()),
    )


if __name__ == "__main__":
    main()

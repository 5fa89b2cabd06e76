"""Memory and time of an evaluation against the number of its pictures, each size in a process of its own.

    python -m benchmarks.evaluation [PICTURES ...]

Base and candidate with two pictures a prompt at one sampler step and five rewards: the sampler, whose share of
the time is known, is cut short, so that what grows with the pictures shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drtune.lifetime import most_resident
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import prepare

SIZES = (256, 1024, 4096)
PICTURES_A_PROMPT = 2
REWARDS = "[symmetry, preference, compressibility, brightness, jpeg_kilobytes]"
TINY = ("steps=1", "processes=1", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "sample_every=9")


def main() -> None:
    """Print a row for each size, then the largest peak over the smallest."""
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [{"text": scene.caption, "split": "eval"} for scene in scenes(seed=11, count=6 * max(sizes))]
        rows += [{"text": "a red circle to train on", "split": "train"}]
        (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        prepare(folder / "captions.jsonl", folder / "prompts")
        run(folder, "train", *TINY)
        print("pictures  peak MiB  seconds")
        peaks = []
        for size in sizes:
            count = size // (2 * PICTURES_A_PROMPT)  # of base and candidate
            started = time.perf_counter()
            peaks.append(run(folder, "evaluate", f"evaluation.max_prompts={count}"))
            print(f"{size:8}  {peaks[-1] / 2**20:8.0f}  {time.perf_counter() - started:7.1f}", flush=True)
        print(f"peak at {sizes[-1]} pictures over peak at {sizes[0]}: {peaks[-1] / peaks[0]:.3f}")


def run(folder: Path, command: str, *overrides: str) -> int:
    """Run one command of drtune; the peak of its resident memory in bytes."""
    places = [f"--prompts={folder / 'prompts'}", "--overwrite"]
    if command == "train":
        places += [f"--out={folder / 'model'}"]
    else:
        places += [f"--model={folder / 'model'}", f"--out={folder / 'report'}"]
        overrides = (*overrides, "evaluation.sampler={steps: 1, guidance_scale: 1}", f"evaluation.rewards={REWARDS}")
        overrides += ("evaluation.capability.prompts=0", "evaluation.scale_curve.prompts=0")
    options = [f"--set={override}" for override in overrides]
    process = subprocess.Popen(
        [sys.executable, "-m", "drtune.cli.main", command, *places, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"drtune {command} ended with {os.waitstatus_to_exitcode(status)}")
    return most_resident(used)


if __name__ == "__main__":
    main()

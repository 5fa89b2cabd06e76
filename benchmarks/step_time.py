"""Time of an update against the sum of its parts, timed in turn in the same run.

python -m benchmarks.step_time
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks.workbench import Workbench, ratio_to_sum, seconds
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.processes import Processes
from drtune.training.run import Trainer

OVERRIDES = ["method.early_stop=1"]  # every update then runs all T steps


def main() -> None:
    """Print the table; end with exit code 1 if the bound does not hold."""
    bench = Workbench(OVERRIDES)
    with tempfile.TemporaryDirectory() as folder:
        trainer, number = make_trainer(Path(folder)), count(1)
        parts = bench.parts(bench.config.method.trained_steps)
        times = seconds({"update": lambda: trainer.update(next(number)), **parts}, repeats=25)
    updates = times.pop("update")
    for name, values in times.items():
        print(f"{name:36} {median(values):7.3f} s")
    ratio = ratio_to_sum(updates, times.values())
    print(f"{'update':36} {median(updates):7.3f} s  {ratio:.3f} of the sum of these (at most 1.05)")
    raise SystemExit(ratio > 1.05)


def make_trainer(folder: Path) -> Trainer:
    """A trainer of the same configuration, prompts, metrics and all."""
    bench = Workbench(OVERRIDES)
    (folder / "prompts.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=100)))
    prepare(folder / "prompts.txt", folder / "prompts")
    return Trainer(bench.config, open_prompts(folder / "prompts"), folder / "out", Processes())


if __name__ == "__main__":
    main()

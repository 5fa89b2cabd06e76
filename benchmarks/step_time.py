"""Time of an update against the sum of its parts, timed in turn in the same run.

python -m benchmarks.step_time
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.workbench import Workbench, seconds
from drtune.methods.sweep import reward_gradient
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.processes import Processes
from drtune.training.run import Trainer

OVERRIDES = ["method.early_stop=1"]  # every update then runs all T steps


def main() -> None:
    """Print the table; end with exit code 1 if the bound does not hold."""
    bench = Workbench(OVERRIDES)
    steps, trained = bench.config.sampler.steps, bench.config.method.trained_steps
    latents, middle = bench.noise(), bench.sampler.steps[steps // 2]
    timesteps = middle.timesteps(latents)

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(steps):
            bench.denoiser(latents, timesteps)

    def forwards_and_backwards() -> None:
        for _ in range(trained):
            bench.denoiser(latents, timesteps).backward(latents)

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder))
        number = count(1)
        times = seconds(
            {
                "update": lambda: trainer.update(next(number)),
                f"{steps} forwards": forwards,
                f"{trained} forwards and backwards": forwards_and_backwards,
                "decode, reward and their backward": lambda: reward_gradient(bench.rewards_of, latents),
                "optimizer": bench.step_optimizer,
            },
            repeats=25,
        )
    updates = times.pop("update")
    for name, values in times.items():
        print(f"{name:36} {median(values):7.3f} s")
    sums = [sum(parts) for parts in zip(*times.values(), strict=True)]
    # Round by round, because a shared machine changes its pace from one to the next.
    ratio = median(update / parts for update, parts in zip(updates, sums, strict=True))
    print(f"{'sum of the parts':36} {median(sums):7.3f} s")
    print(f"{'update':36} {median(updates):7.3f} s  {ratio:.3f} of the sum (at most 1.05)")
    raise SystemExit(ratio > 1.05)


def make_trainer(folder: Path) -> Trainer:
    """A trainer of the same configuration, prompts, metrics and all."""
    bench = Workbench(OVERRIDES)
    (folder / "prompts.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=100)))
    prepare(folder / "prompts.txt", folder / "prompts")
    return Trainer(bench.config, open_prompts(folder / "prompts"), folder / "out", Processes())


if __name__ == "__main__":
    main()

"""The sweep against plain autograd through the whole chain, with and without gradient checkpointing.

python -m benchmarks.autograd
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.workbench import Workbench, peak_bytes, seconds
from drtune.methods.draws import generator_of
from drtune.methods.path import taken
from drtune.methods.plans import draw_plan

SETTINGS = ((12, 4), (25, 3), (50, 5))
"""T and K."""


def autograd_update(bench: Workbench, network: Callable[[Tensor, Tensor], Tensor]) -> None:
    """DRTune as the paper writes it: one graph over the chain, its trained steps and the reward."""
    plan = draw_plan(bench.config.method, len(bench.sampler.steps), generator_of(0, "plan", 1))
    latents = bench.noise()
    for index, step in enumerate(bench.sampler.steps[: plan.stop + 1]):
        timesteps = step.timesteps(latents)
        if index in plan.trained:
            output = network(latents.detach(), timesteps)
        else:
            with torch.no_grad():
                output = bench.denoiser(latents, timesteps)
        a, b = taken(bench.sampler, index, plan)
        latents = a * latents + b * output
    (-bench.rewards_of(latents, slice(None)).mean()).backward()
    bench.step_optimizer()


def main() -> None:
    """Print time and memory of each way for several T and K."""
    print(f"{'T':>3} {'K':>3}  {'':42} {'time':>7} {'memory':>7}   of plain autograd's")
    for steps, trained in SETTINGS:
        overrides = [f"sampler.steps={steps}", f"method.trained_steps={trained}", "method.early_stop=1"]
        bench = Workbench(overrides)
        keeping = Workbench([*overrides, f"compute.keep_graphs={trained}"])
        together = Workbench([*overrides, f"compute.replay_batch={trained}"])
        blocks = Workbench([*overrides, "compute.gradient_checkpointing=true"])
        ways = {
            "plain autograd": partial(autograd_update, bench, bench.denoiser),
            "plain autograd, each call checkpointed": partial(
                autograd_update, bench, partial(checkpoint, bench.denoiser, use_reentrant=False)
            ),
            "plain autograd, blocks checkpointed": partial(autograd_update, blocks, blocks.denoiser),
            "sweep": bench.update,
            "sweep, blocks checkpointed": blocks.update,
            "sweep, all K in one forward": together.update,
            "sweep, all K graphs kept": keeping.update,
        }
        times = {name: median(values) for name, values in seconds(ways, repeats=9).items()}
        peaks = {name: peak_bytes(way) for name, way in ways.items()}
        for name in ways:
            time, peak = times[name] / times["plain autograd"], peaks[name] / peaks["plain autograd"]
            absolute = f"({times[name]:.2f} s, {peaks[name] / 2**20:.0f} MiB)"
            print(f"{steps:3} {trained:3}  {name:42} {time:7.2f} {peak:7.2f}   {absolute}")


if __name__ == "__main__":
    main()

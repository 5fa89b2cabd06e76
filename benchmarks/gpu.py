"""What an update costs on a GPU: full size, the presets' own settings, random weights, so that none are needed.

python -m benchmarks.gpu [--updates N] [--methods] [--batches] PRESET ...

Of each preset (default: configs/sdxl-hps.yaml), in Markdown: the peak of memory beside what `drtune plan` says, the
seconds of an update of one micro-batch (the median of N), pictures an hour, the ratio to the sum of its parts, timed in
turn in the same run, and the share of the card's own matrix product that the roll-out reaches.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workbench import Bench, finish, ratio_to_sum, seconds
from drtune.config import Config, MethodConfig, load_config
from drtune.models.loading import DEVICE, quiet_libraries
from drtune.models.quantized import quantize
from drtune.rewards import WeightedSum
from drtune.training.plan.architectures import shell
from drtune.training.plan.estimate import estimate
from drtune.training.plan.rewards import networks, reward_shell

GIB = 2**30
BATCHES = (1, 2, 4, 8)
DEVIATION = 0.02
"""Of the random weights: small enough that no layer overflows."""


@dataclass(frozen=True)
class Cost:
    """What an update of some pictures cost."""

    pictures: int
    update_seconds: float
    parts: dict[str, float]
    """Median seconds of each."""
    ratio: float
    """Median over the rounds of update / sum of the parts."""
    peak_bytes: int | None
    """None where there is no GPU to ask."""
    rollout_flops_per_second: float


def main() -> None:
    """Print the tables; end with exit code 1 if a bound does not hold on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", type=Path, default=[Path("configs/sdxl-hps.yaml")])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--methods", action="store_true", help="every method, in place of the preset's own alone")
    parser.add_argument("--batches", action="store_true", help=f"{BATCHES} pictures an update, as far as they fit")
    arguments = parser.parse_args()
    quiet_libraries()
    held = True
    print(f"{card()}, torch {torch.__version__}, {arguments.updates} updates each\n")
    roof = matrix_product()
    print(f"a plain bf16 matrix product: {roof / 1e12:.1f} TFLOP/s\n")
    print("| preset | pictures | s an update | pictures an hour | of its parts | peak GiB | planned | of the roof |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in arguments.presets:
        for label, config in variants(load_config(preset), methods=arguments.methods, batches=arguments.batches):
            name = f"{preset.stem}{label}"
            gc.collect()
            torch.cuda.empty_cache()
            try:
                cost = measured(config, arguments.updates)
            except torch.OutOfMemoryError:
                print(f"| {name} | {config.batch_size} | does not fit | | | | | |", flush=True)
                continue
            planned = estimate(config).memory.peak
            print(row(name, cost, planned, roof), flush=True)
            held = held and (cost.peak_bytes is None or (cost.ratio <= 1.05 and off(cost.peak_bytes, planned) <= 0.05))
    raise SystemExit(not held)


def card() -> str:
    """The name of the device."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the figures are of a CPU"


def variants(preset: Config, *, methods: bool, batches: bool) -> Iterator[tuple[str, Config]]:
    """The configurations to measure, each of one micro-batch an update that runs all its steps."""
    one = preset.compute.micro_batch_size or preset.batch_size
    names = get_args(MethodConfig.model_fields["name"].annotation) if methods else (preset.method.name,)
    for name in names:
        for pictures in BATCHES if batches else (one,):
            method = preset.method.model_copy(update={"name": name, "early_stop": 1})
            compute = preset.compute.model_copy(update={"micro_batch_size": None, "rollout_batch_size": None})
            update = {"method": method, "compute": compute, "batch_size": pictures, "processes": 1}
            yield f", {name}" if methods else "", preset.model_copy(update=update)


def measured(config: Config, updates: int) -> Cost:
    """Times and peak of one configuration."""
    bench = random_bench(config)
    parts, numbers = bench.parts(trained_steps(config)), count(1)
    peak = peak_of_update(bench)
    times = seconds({"update": lambda: bench.update(next(numbers)), **parts}, updates)
    with FlopCounterMode(display=False) as flops:
        parts["roll-out"]()
    whole = times.pop("update")
    return Cost(
        pictures=config.batch_size,
        update_seconds=median(whole),
        parts={name: median(values) for name, values in times.items()},
        ratio=ratio_to_sum(whole, times.values()),
        peak_bytes=peak,
        rollout_flops_per_second=flops.get_total_flops() / median(times["roll-out"]),
    )


def random_bench(config: Config) -> Bench:
    """The base and the rewards of a configuration at full size, with random weights, on the device."""
    base = shell(config)
    terms = {name: reward_shell(name, antialias=config.reward_antialias) for name in config.rewards}
    reward = WeightedSum([(terms[name], term) for name, term in config.rewards.items()])
    parts = [part for part in base.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    for module in (*parts, *networks(terms.values())):
        fill(module)
    if kind := config.compute.quantization:
        quantize(base.network, torch.device(DEVICE), kind)
    return Bench(config, base, [f"picture {number}" for number in range(config.batch_size)], reward)


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Random weights on the device in the place of those that have none."""
    torch.nn.Module.to_empty(module, device=DEVICE)
    for weight in module.parameters():
        weight.normal_(std=DEVIATION)
    for buffer in module.buffers():
        buffer.zero_()


def trained_steps(config: Config) -> int:
    """Backward passes of one update, the mean over a run."""
    return round(estimate(config).backwards.mean)


def peak_of_update(bench: Bench) -> int | None:
    """The most bytes that the device holds at once in an update, after a first one."""
    bench.update()
    if not torch.cuda.is_available():
        return None
    finish()
    torch.cuda.reset_peak_memory_stats()
    bench.update()
    return torch.cuda.max_memory_allocated()


def matrix_product(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of a bf16 product of two square matrices: what this device can do at most."""
    size = size if torch.cuda.is_available() else 512
    left = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    return 2 * size**3 / median(seconds({"product": lambda: left @ left}, repeats)["product"])


def off(peak: int, planned: int) -> float:
    """How far the plan is off."""
    return abs(planned / peak - 1)


def row(name: str, cost: Cost, planned: int, roof: float) -> str:
    """A row of the table."""
    cells: Sequence[str] = (
        name,
        str(cost.pictures),
        f"{cost.update_seconds:.3g}",
        f"{3600 * cost.pictures / cost.update_seconds:,.0f}",
        f"{cost.ratio:.3f}",
        f"{cost.peak_bytes / GIB:.1f}" if cost.peak_bytes else "not measured",
        f"{planned / GIB:.2f}",
        f"{cost.rollout_flops_per_second / roof:.0%}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

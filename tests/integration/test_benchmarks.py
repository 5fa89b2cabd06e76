"""What `make bench` measures with long runs, held by a short one; seconds are measured by the command alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import FAULTS, fuzz
from benchmarks.gpu import measured, row
from benchmarks.workbench import Workbench, peak_bytes
from drtune.config import load_config


@pytest.mark.slow
def test_peak_memory_is_flat_and_close_to_that_of_an_ordinary_step() -> None:
    ordinary = peak_bytes(Workbench().denoising_step)
    peaks = [
        peak_bytes(
            Workbench([f"sampler.steps={steps}", f"method.trained_steps={trained}", "method.early_stop=1"]).update
        )
        for steps, trained in ((3, 1), (9, 3))
    ]
    assert max(peaks) <= 1.03 * min(peaks)
    assert max(peaks) <= 1.10 * ordinary


@pytest.mark.slow
def test_hostile_inputs_end_well_or_in_a_line(tmp_path: Path) -> None:
    outcomes = fuzz(20, tmp_path)
    assert sum(outcomes.values()) == 20
    assert not [(command, outcome) for command, outcome in outcomes if outcome in FAULTS]


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_every_part_on_random_weights() -> None:
    """On a CPU, which has no peak to ask for."""
    overrides = ["batch_size=2", "sampler.steps=3", "method.trained_steps=2", "method.early_stop=1"]
    cost = measured(load_config("configs/miniature.yaml", overrides), updates=1)
    assert set(cost.parts) > {"roll-out", "trained forwards and backwards", "optimizer"}
    assert 0.2 < cost.ratio < 5
    assert cost.rollout_flops_per_second > 1e7
    assert row("miniature", cost, 2**30, 1e12).count("|") == 9

"""What `make bench` measures with long runs, held by a short one; seconds are measured by the command alone."""

from __future__ import annotations

import pytest

from benchmarks.workbench import Workbench, peak_bytes


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

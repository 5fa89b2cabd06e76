"""Peak memory of an update: flat in T and K, and close to that of an ordinary denoising-loss LoRA step.

python -m benchmarks.memory
"""

from __future__ import annotations

from benchmarks.workbench import Workbench, peak_bytes


def main() -> None:
    """Print the table; end with exit code 1 if a bound does not hold."""
    bench = Workbench()
    ordinary = peak_bytes(bench.denoising_step)
    print(f"{'denoising-loss LoRA step':42} {ordinary / 2**20:8.1f} MiB")
    peaks = {}
    for steps, trained in ((10, 1), (10, 4), (10, 10), (100, 1), (100, 10)):
        overrides = [f"sampler.steps={steps}", f"method.trained_steps={trained}", "method.early_stop=1"]
        peaks[steps, trained] = peak = peak_bytes(Workbench(overrides).update)
        print(f"{f'DRTune update, T = {steps}, K = {trained}':42} {peak / 2**20:8.1f} MiB  {peak / ordinary:.3f} of it")
    peak = peak_bytes(Workbench(["compute.micro_batch_size=1"]).update)
    print(f"{'DRTune update, graphs of one picture':42} {peak / 2**20:8.1f} MiB  {peak / ordinary:.3f} of it")
    growth = max(peaks.values()) / min(peaks.values()) - 1
    above = max(peaks.values()) / ordinary
    print(f"growth over T and K {growth:.2%} (at most 3 %); against the ordinary step {above:.3f} (at most 1.10)")
    raise SystemExit(growth > 0.03 or above > 1.10)


if __name__ == "__main__":
    main()

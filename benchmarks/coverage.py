"""How often 95 % intervals hold the truth, by simulation: the table of docs/evaluation.md.

    python -m benchmarks.coverage

Each number is the share of 10,000 samples whose interval holds the mean that they were drawn around; chance moves it by
0.4 percentage points. Diversity is that of points on a sphere, a U-statistic, compared between two draws alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from drtune.evaluation.statistics import (
    crossed_interval,
    crossed_shares,
    mean_interval,
    paired_shares,
    pseudo_values,
    wilson,
)

COUNTS = (5, 8, 10, 20, 64, 192)
"""Of prompts; of fewer than eight no report shows an interval."""
SAMPLES = 10_000
DIMENSIONS = 16
Floats = NDArray[np.float64]
SHAPES: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], Floats], float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exp": (lambda rng, size: rng.exponential(size=size), 1.0),
    "-lognormal": (lambda rng, size: -rng.lognormal(size=size), -math.exp(0.5)),
}
"""How gains are spread, and their true mean."""


SHARES = ((0.08, 0.03), (0.02, 0.0), (0.3, 0.05))
"""Of the prompts that one side alone gets right: lost by the candidate, and gained by it."""


SEED_COUNTS = (2, 3, 5, 10)
SEED_SPREADS = (0.0, 0.1, 0.3, 1.0)
"""Deviations of seeds' gains in those of prompts' gains."""


def main() -> None:
    """Print the table, in Markdown."""
    kinds: dict[str, Callable[[int], float]] = {
        **{f"gain, {shape}": lambda count, shape=shape: coverage(shape, count, SAMPLES) for shape in SHAPES},
        "gain in diversity across prompts": lambda count: coverage_of_diversity(count, SAMPLES),
        **{
            f"difference of shares, {lost} lost, {gained} gained": (
                lambda count, lost=lost, gained=gained: coverage_of_shares(lost, gained, count, SAMPLES)
            )
            for lost, gained in SHARES
        },
        "win rate of 0.9": lambda count: coverage_of_wins(count, SAMPLES),
    }
    print("| % of intervals that hold the truth |" + "".join(f" {count} prompts |" for count in COUNTS))
    print("|---|" + "---|" * len(COUNTS))
    for kind, covered in kinds.items():
        print(f"| {kind} |" + "".join(f" {100 * covered(count):.1f} |" for count in COUNTS), flush=True)

    print("\n| % over seeds and 64 prompts |" + "".join(f" {count} seeds |" for count in SEED_COUNTS))
    print("|---|" + "---|" * len(SEED_COUNTS))
    for spread in SEED_SPREADS:
        cells = (f" {100 * coverage_of_seeds(spread, count, 64, SAMPLES):.1f} |" for count in SEED_COUNTS)
        print(f"| seeds differ by {spread:g} of what prompts do |" + "".join(cells), flush=True)
    for lost, gained in SHARES:
        cells = (
            f" {100 * coverage_of_shares_by_seed(lost, gained, count, 64, SAMPLES):.1f} |" for count in SEED_COUNTS
        )
        print(f"| difference of shares, {lost} lost, {gained} gained, 0.3 |" + "".join(cells), flush=True)


def coverage(shape: str, count: int, samples: int) -> float:
    """Of the interval of the mean of `count` gains of that shape."""
    draw, truth = SHAPES[shape]
    low, high = mean_interval(draw(np.random.default_rng(count), (count, samples)))
    return float(((low <= truth) & (truth <= high)).mean())


def coverage_of_diversity(count: int, samples: int) -> float:
    """Of the interval of the gain in diversity across `count` prompts, where there is none."""
    rng = np.random.default_rng(count)
    gains = np.stack([_diversity(rng, count) - _diversity(rng, count) for _ in range(samples)], axis=1)
    low, high = mean_interval(gains)
    return float(((low <= 0) & (high >= 0)).mean())


def coverage_of_shares(lost: float, gained: float, count: int, samples: int) -> float:
    """Of the interval of the difference of two shares of `count` prompts, of which one side alone has these shares."""
    drawn = np.random.default_rng(count).multinomial(count, [lost, gained, 1 - lost - gained], samples)
    ends = [paired_shares(more, less, count) for less, more, _ in drawn.tolist()]
    return float(np.mean([low <= gained - lost <= high for low, high in ends]))


def coverage_of_seeds(spread: float, seeds: int, prompts: int, samples: int) -> float:
    """Of the interval of a gain over seeds and prompts, with normal effects of both and of each seed on each prompt.

    Seeds deviate by `spread`, prompts by 1, and what a seed does to a prompt by 0.7.
    """
    rng = np.random.default_rng(seeds)
    held = 0
    for _ in range(samples):
        low, high = crossed_interval(_effects(rng, spread, seeds, prompts))
        held += low <= 0 <= high
    return held / samples


def coverage_of_shares_by_seed(lost: float, gained: float, seeds: int, prompts: int, samples: int) -> float:
    """Of the interval of the difference of two shares over seeds and prompts.

    The pictures with the largest effects are lost, those with the smallest gained; seeds deviate by 0.3.
    """
    rng = np.random.default_rng(seeds)
    spread = NormalDist(sigma=math.sqrt(0.3**2 + 1 + 0.7**2))
    most, least = (-spread.inv_cdf(max(share, 1e-12)) for share in (lost, gained))
    held = 0
    for _ in range(samples):
        effects = _effects(rng, 0.3, seeds, prompts)
        low, high = crossed_shares((effects < -least).astype(float) - (effects > most))
        held += low <= gained - lost <= high
    return held / samples


def coverage_of_wins(count: int, samples: int) -> float:
    """Of Wilson's interval of a win rate of 0.9 on `count` prompts."""
    low, high = wilson(np.random.default_rng(count).binomial(count, 0.9, samples) / count, count)
    return float(((low <= 0.9) & (high >= 0.9)).mean())


def _effects(rng: np.random.Generator, spread: float, seeds: int, prompts: int) -> Floats:
    effects = spread * rng.normal(size=(seeds, 1)) + rng.normal(size=prompts)
    return effects + 0.7 * rng.normal(size=(seeds, prompts))


def _diversity(rng: np.random.Generator, count: int) -> Floats:
    """Pseudo-values (count,) of the mean of 1 - cosine over all pairs of points that lie about one direction."""
    points = 1 + 1.5 * rng.normal(size=(count, DIMENSIONS))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return pseudo_values(1 - (points @ points.sum(axis=0) - 1) / (count - 1))


if __name__ == "__main__":
    main()

"""How many seeds and prompts the claims need: `python -m science.power` prints the tables of docs/science-design.md.

A paired difference of gains varies over seeds, by the chance of training, and over prompts within a seed. With S
seeds that have P reporting prompts each, the mean has the variance (seeds + prompts / P) / S. That Student's t of S -
1 degrees of freedom finds a difference that lies so far within its bound, among K inequalities corrected by
Bonferroni, has the probability that the noncentral t gives (Cohen 1988, chapter 2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

from science.arms import DRTUNE, FULL, OBJECTIVES, SHALLOW
from science.hypotheses import asked

FIRST_STUDY = Path(__file__).parents[1] / "docs" / "science" / "first-study.json"
FIRST_PROMPTS = 16
"""Of each seed in the first study, with two pictures each; one picture's noise counts as a prompt's here."""
SEEDS = (4, 6, 8, 10, 12)
PROMPTS = (16, 32, 64, 128)
"""Those that report."""
WANTED = 0.9
"""Power."""
FIRST_OBJECTIVES = ("symmetry", "compressibility", "left half")
DECIDING = sum(len(hypothesis.inequalities) for hypothesis in asked(["depth", "failing"]))
"""Inequalities that are decided together, where the two claims that share the main trainings are asked about alone."""


@dataclass(frozen=True)
class Spread:
    """Variances of a paired difference."""

    seeds: float
    """Between seeds, of the mean over endless prompts."""
    prompts: float
    """Between prompts of a seed."""

    def deviation(self, seeds: int, prompts: int) -> float:
        """The standard error of the mean."""
        return float(np.sqrt((self.seeds + self.prompts / prompts) / seeds))


def power(excess: float, spread: Spread, seeds: int, prompts: int, inequalities: int) -> float:
    """The probability of finding a difference that lies `excess` within its bound."""
    critical = student.ppf(1 - 0.025 / inequalities, seeds - 1)
    return float(nct.sf(critical, seeds - 1, excess / spread.deviation(seeds, prompts)))


def smallest(spread: Spread, seeds: int, prompts: int, inequalities: int) -> float:
    """The excess that is found with the power WANTED."""
    deviation = spread.deviation(seeds, prompts)
    found: float = brentq(
        lambda excess: power(excess, spread, seeds, prompts, inequalities) - WANTED, 0, 100 * deviation
    )
    return found


def first_spreads(objective: str) -> tuple[Spread, Spread]:
    """Bounds from the first study's leads of DRTune, whose spread over seeds cannot be told from that over prompts.

    All of it may be between seeds, or all between the prompts of which each seed had its own.
    """
    gains = json.loads(FIRST_STUDY.read_text(encoding="utf-8"))["gains"][objective]
    leads = [
        np.subtract(own, gains[way][rate])
        for way, (rate, own) in product(SHALLOW, gains[DRTUNE].items())
        if way in gains
    ]
    total = float(np.mean([lead.var(ddof=1) for lead in leads]))
    return Spread(total, 0.0), Spread(0.0, total * FIRST_PROMPTS)


def tables() -> str:
    """What a study of so many seeds and prompts can find, from the spread of the first one, in Markdown."""
    lines = [
        "| trained on | seeds | all spread between seeds |" + "".join(f" else, {count} prompts |" for count in PROMPTS),
        "|---|---|---|" + "---|" * len(PROMPTS),
    ]
    for objective, seeds in product(FIRST_OBJECTIVES, SEEDS):
        between, within = first_spreads(objective)
        found = [
            smallest(between, seeds, 1, DECIDING),
            *(smallest(within, seeds, count, DECIDING) for count in PROMPTS),
        ]
        lines.append(f"| {objective} | {seeds} | {' | '.join(f'{one:.3f}' for one in found)} |")
    chosen = FULL.seeds, FULL.reporting.stop - FULL.reporting.start
    lines += [
        "",
        "| trained on | margin | to find twice the margin, all spread between seeds | all between prompts |",
        "|---|---|---|---|",
    ]
    for objective in FIRST_OBJECTIVES:
        margin = OBJECTIVES[objective].margin
        found = [power(margin, spread, *chosen, DECIDING) for spread in first_spreads(objective)]
        lines.append(f"| {objective} | {margin:g} | {' | '.join(f'{one:.2f}' for one in found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())

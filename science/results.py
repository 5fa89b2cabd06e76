"""What the page asks of a study: which learning rate and time a method was chosen at, and what it gained there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from science.arms import OBJECTIVES, Arm, Cell, further_cells
from science.exam import MEASURES
from science.hypotheses import Hypothesis, Inequality, arms_of, budgeted
from science.records import Record, Study
from science.simultaneous import simultaneous
from science.statistics import Estimate, Floats

DRIFT = MEASURES.index("drift")


@dataclass(frozen=True)
class Choice:
    """A learning rate, and a time on the way: the examination before it, and the share of the way to the next."""

    rate: float
    before: int
    share: float

    def at(self, path_CX: Floats) -> Floats:
        """A path there, straight between examinations."""
        last = len(path_CX) - 1  # where a training diverged, it stays
        there: Floats = np.array(path_CX[min(self.before, last)], dtype=float)
        there += self.share * (path_CX[min(self.before + 1, last)] - there)
        return there


@dataclass(frozen=True)
class Finding:
    """What came of one inequality."""

    inequality: Inequality
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """Whether it holds."""
        low, high = self.estimate.low, self.estimate.high
        if low > self.inequality.above and high < self.inequality.below:
            return "holds"
        return "does not hold" if high <= self.inequality.above or low >= self.inequality.below else "undecided"


def verdict_of(findings: Iterable[Finding]) -> str:
    """Whether a claim holds: all of its inequalities must."""
    verdicts = {finding.verdict for finding in findings}
    return next(one for one in ("does not hold", "undecided", "holds") if one in verdicts)


class Results:
    """The answers of a study."""

    def __init__(self, study: Study) -> None:
        self.study, self.scale = study, study.scale
        self.choice = lru_cache(maxsize=None)(self._choice)

    def records(self, arm: Arm, rate: float) -> list[Record]:
        """Those of all seeds that were trained at a learning rate."""
        cells = (Cell(arm, rate, seed) for seed in range(self.scale.seeds))
        return [self.study.records[cell] for cell in cells if cell in self.study.records]

    def diverged(self) -> list[Cell]:
        """The trainings that did."""
        return [cell for cell, record in self.study.records.items() if record.checks_C[-1] < self.scale.updates]

    def mean_path(self, arm: Arm, rate: float, *columns: str, choosing: bool = False) -> Floats:
        """The mean over seeds and prompts (C, N) of some measures' changes from the base, at every examination.

        Of the prompts that report and all seeds; or, `choosing`, of the others and the seeds that choose.
        """
        if choosing:
            first = self.records(arm, rate)[: self.scale.choosing_seeds]
            paths = [_changes(record.choosing_CM) for record in first]
        else:
            paths = [_changes(record.reporting_CPM.mean(axis=1)) for record in self.records(arm, rate)]
        shortest = min(map(len, paths))
        mean_CM = np.mean([path[:shortest] for path in paths], axis=0)
        named = {name: mean_CM[:, place] for place, name in enumerate(MEASURES)}
        weights = OBJECTIVES[arm.objective].weights
        named["objective"] = sum((weight * named[name] for name, weight in weights.items()), np.zeros(shortest))
        named["updates"] = np.array([0, *self.scale.checks][:shortest], dtype=float)
        named["judged"] = named[OBJECTIVES[arm.objective].judged]
        return np.column_stack([named[name] for name in columns])

    def seed_paths(self, arm: Arm, rate: float, axis: str) -> list[Floats]:
        """An axis, updates or drift, and the gain (C, 2) of each training, in the mean over the prompts that report."""
        place = MEASURES.index(OBJECTIVES[arm.objective].judged)
        paths = []
        for record in self.records(arm, rate):
            changes_CM = _changes(record.reporting_CPM).mean(axis=1)
            x_C = record.checks_C if axis == "updates" else changes_CM[:, DRIFT]
            paths.append(np.column_stack([x_C, changes_CM[:, place]]))
        return paths

    def groups(self, hypotheses: Iterable[Hypothesis]) -> dict[tuple[str, int, float], list[Arm]]:
        """The arms that are shown side by side: those of one objective, T and budget of drift."""
        found: dict[tuple[str, int, float], list[Arm]] = {}
        for arm, budget in budgeted(hypotheses):
            found.setdefault((arm.objective, arm.steps, budget), []).append(arm)
        return found

    def further(self, hypotheses: Iterable[Hypothesis]) -> list[Cell]:
        """The cells of the other seeds, now that the first ones have chosen."""
        chosen = ((arm, self.choice(arm, budget).rate) for arm, budget in budgeted(hypotheses))
        return further_cells(chosen, self.scale)

    def is_complete(self, hypothesis: Hypothesis) -> bool:
        """Whether all that it needs was trained, with all seeds."""
        return set(arms_of([hypothesis])) <= set(self.study.arms) and set(self.further([hypothesis])) <= set(
            self.study.records
        )

    def _choice(self, arm: Arm, budget: float) -> Choice:
        """Where the objective had risen most within a budget of drift, on the prompts that choose."""
        found = []
        for rate in self.scale.rates:
            path = self.mean_path(arm, rate, "objective", "drift", choosing=True)
            found += [(gain, Choice(rate, before, share)) for gain, before, share in highest_within(path, budget)]
        return max(found, key=lambda one: one[0])[1]

    def at_edge(self, arm: Arm, budget: float) -> bool:
        """Whether the chosen rate is the lowest or highest that was tried."""
        return self.choice(arm, budget).rate in (min(self.scale.rates), max(self.scale.rates))

    def updates(self, arm: Arm, budget: float) -> float:
        """How many updates were chosen."""
        return float(self.choice(arm, budget).at(np.array([0, *self.scale.checks], dtype=float)))

    def values(self, arm: Arm, budget: float, measure: str | None = None) -> Floats:
        """The gain (S, P) of each seed and reporting prompt where the others chose; None: of the judged reward."""
        choice, place = self.choice(arm, budget), MEASURES.index(measure or OBJECTIVES[arm.objective].judged)
        return np.stack(
            [choice.at(_changes(record.reporting_CPM)[..., place]) for record in self.records(arm, choice.rate)]
        )

    def of_first_seeds(self, arm: Arm, budget: float) -> tuple[float, float]:
        """Gain and drift where a budget of drift chooses, of the seeds that trained at every rate."""
        choice, place = self.choice(arm, budget), MEASURES.index(OBJECTIVES[arm.objective].judged)
        first = self.records(arm, choice.rate)[: self.scale.choosing_seeds]
        means_M = np.mean([choice.at(_changes(record.reporting_CPM).mean(axis=1)) for record in first], axis=0)
        return float(means_M[place]), float(means_M[DRIFT])

    def findings(self, hypotheses: Sequence[Hypothesis]) -> dict[str, list[Finding]]:
        """What came of all inequalities, as one family, by the names of their claims."""
        family = [inequality for hypothesis in hypotheses for inequality in hypothesis.inequalities]
        found = iter(zip(family, simultaneous(self.sums(hypotheses)), strict=True))
        return {hypothesis.name: [Finding(*next(found)) for _ in hypothesis.inequalities] for hypothesis in hypotheses}

    def sums(self, hypotheses: Sequence[Hypothesis]) -> Floats:
        """What all of their inequalities bound (K, S, P), by seed and prompt."""
        nothing = np.zeros((self.scale.seeds, self.scale.prompts // 2))
        return np.stack(
            [
                sum((weight * self.values(arm, one.budget, one.measure) for weight, arm in one.terms), nothing)
                for hypothesis in hypotheses
                for one in hypothesis.inequalities
            ]
        )


def highest_within(path_C2: Floats, budget: float) -> list[tuple[float, int, float]]:
    """Where a path (gain, drift) may be highest within a budget of drift: (gain, examination before, share of the way).

    Straight between examinations, it is so at an examination or where the budget is crossed.

    >>> highest_within(np.array([[0.0, 0.0], [4.0, 0.2]]), 0.1)
    [(0.0, 0, 0.0), (2.0, 0, 0.5)]
    """
    found = [(float(gain), place, 0.0) for place, (gain, drift) in enumerate(path_C2) if drift <= budget]
    for place, ((gain, drift), (next_gain, next_drift)) in enumerate(pairwise(path_C2)):
        if (drift - budget) * (next_drift - budget) < 0:
            share = float((budget - drift) / (next_drift - drift))
            found.append((float(gain + share * (next_gain - gain)), place, share))
    return found


def _changes(readings: Floats) -> Floats:
    """Changes from the base, the first; drift, which is one already, as it is."""
    changes = readings - readings[:1]
    changes[..., DRIFT] = readings[..., DRIFT]
    return changes

"""The gains of an evaluation in a line of the log, which is what a server gives back of a step when asked for it."""

from __future__ import annotations

import re
from typing import NamedTuple

from drtune.contracts import EvaluationReport

_BEGINNING = "gains over the base: "
_GAIN = re.compile(r"(?P<measure>.+?) (?P<mean>[+-][^\s()]+)(?: \((?P<low>[^\s()]+) to (?P<high>[^\s()]+)\))?")


class Gain(NamedTuple):
    """Mean of candidate minus base over the prompts, with its 95 % interval, which few prompts do not have."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + (f" ({self.low:+.4f} to {self.high:+.4f})" if self.low is not None else "")


def gains_of(report: EvaluationReport) -> dict[str, Gain]:
    """Of every reward over the base, those that were tuned on first."""
    rewards = {measure.name: measure.kind != "trained" for measure in report.measures if measure.is_reward}
    found = {name: score for name in sorted(rewards, key=lambda name: rewards[name]) if (score := report.score(name))}
    return {name: Gain(score.gain, score.gain_low, score.gain_high) for name, score in found.items()}


def gains_line(report: EvaluationReport) -> str:
    """What `gains_in` reads back, to four places."""
    return _BEGINNING + "; ".join(f"{measure} {gain}" for measure, gain in gains_of(report).items())


def gains_in(log: str) -> dict[str, Gain]:
    """The gains that a step told; none where it did not."""
    told = next((line for line in log.splitlines() if line.startswith(_BEGINNING)), _BEGINNING)
    found = filter(None, map(_GAIN.fullmatch, told.removeprefix(_BEGINNING).split("; ")))
    numbers = {one["measure"]: (one["mean"], one["low"], one["high"]) for one in found}
    return {name: Gain(*(float(one) for one in three if one)) for name, three in numbers.items()}

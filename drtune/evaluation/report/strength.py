"""The curve over the adapter's strength as two small drawings: what rewards gain, and what it costs.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), and no two lines differ by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import NamedTuple

from drtune.contracts import EvaluationReport

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 4", "12 4")
"""One more than colours: the two together begin again only after their product."""
LONGEST = 3.0
"""Standard deviations at which a line is cut off: a reward that falls by twenty must not flatten the others."""
LEFT, RIGHT, TOP, BOTTOM = 44.0, 470.0, 12.0, 196.0
"""Of the plot in its drawing, which is 480 by 230."""


class Mark(NamedTuple):
    """A point of a line in the drawing, with the ends of its interval if there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Line(NamedTuple):
    """One measure over the adapter's strength."""

    name: str
    colour: str
    dash: str
    marks: tuple[Mark, ...]

    @property
    def path(self) -> str:
        """Its points as those of a polyline."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


class Panel(NamedTuple):
    """One drawing: its lines, and where the numbers beside its axes stand."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    trained_x: float
    """Where the strength is 1."""


Value = tuple[float, float | None, float | None]


def panels(report: EvaluationReport) -> list[Panel]:
    """What the page draws of the report's curve; nothing where it has none."""
    if report.scale_curve is None:
        return []
    gains = {reward: list(_gains(report, reward)) for reward in report.rewards}
    beside = {one.name: list(_beside(report, one.name)) for one in report.measures if one.kind == "diversity"}
    beside["drift"] = list(_beside(report, "drift"))
    found = [
        ("Rewards: gain in standard deviations of the base's prompts", gains),
        ("Diversity as a share of the base's, and drift from it", beside),
    ]
    scales = [point.scale for point in report.scale_curve.points]
    return [_panel(title, scales, lines) for title, every in found if (lines := {k: v for k, v in every.items() if v})]


def _gains(report: EvaluationReport, name: str) -> Iterator[Value]:
    """At each strength the gain over the base with its interval, in standard deviations of the base's prompts."""
    assert report.scale_curve is not None
    first = report.at(report.scale_curve.points[0]).standing(name)
    spread = (first.deviation if first else 0.0) or math.inf
    for point in report.scale_curve.points:
        if score := report.at(point).score(name):
            yield score.gain / spread, _over(score.gain_low, spread), _over(score.gain_high, spread)


def _beside(report: EvaluationReport, name: str) -> Iterator[Value]:
    """At each strength what is left of the base's diversity; drift as it is."""
    assert report.scale_curve is not None
    for point in report.scale_curve.points:
        at = report.at(point)
        if name == "drift" and (standing := at.standing(name)):
            yield standing.mean, None, None
        elif (score := at.score(name)) and score.opponent_mean:
            yield score.candidate_mean / score.opponent_mean, None, None


def _over(value: float | None, spread: float) -> float | None:
    return None if value is None else value / spread


def _panel(title: str, scales: list[float], values: dict[str, list[Value]]) -> Panel:
    reached = [_cut(number) for line in values.values() for value in line for number in value if number is not None]
    ticks = _ticks(min(0.0, *reached), max(0.0, *reached))
    low, high = ticks[0], ticks[-1]

    def x(scale: float) -> float:
        return LEFT + 10 + scale / scales[-1] * (RIGHT - LEFT - 20)

    def y(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    lines = tuple(
        Line(
            name,
            colour,
            dash,
            tuple(
                Mark(x(scale), y(_cut(value)), *(None if end is None else y(_cut(end)) for end in ends))
                for scale, (value, *ends) in zip(scales, line, strict=True)
            ),
        )
        for (name, line), colour, dash in zip(values.items(), cycle(COLOURS), cycle(DASHES), strict=False)
    )
    return Panel(
        title,
        lines,
        tuple((x(scale), f"{scale:g}") for scale in scales),
        tuple((y(value), f"{value:g}".replace("-", "\N{MINUS SIGN}")) for value in ticks),
        x(1.0),
    )


def _cut(value: float) -> float:
    return max(-LONGEST, min(LONGEST, round(value, 6)))  # no tick below zero for a rounding error


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around a range, four to eight of them."""
    step = max(high - low, 1e-6) / 4
    unit = 10 ** math.floor(math.log10(step))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= step)
    return [round(index * step, 10) for index in _whole(low / step, high / step)]


def _whole(low: float, high: float) -> Iterable[int]:
    return range(math.floor(low + 1e-9), max(math.ceil(high - 1e-9), math.floor(low) + 1) + 1)

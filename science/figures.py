"""The plots of the pages, each as two SVGs: for light and for dark surroundings.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), and no two lines differ by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drtune.files.local import replacing
from science.arms import DRTUNE, FULL, OBJECTIVES, STEPS, Arm, short
from science.hypotheses import NEAR, SYMMETRY, Hypothesis
from science.results import Finding, Results
from science.simultaneous import simultaneous

Draw = Callable[[], Figure]
DASHES = (0, (5, 1, 1, 1, 1, 1))
RATE_STYLES = (("#CC79A7", "-."), ("#56B4E9", ":"), ("#0072B2", "--"), ("#D55E00", "-"), ("#009E73", DASHES))
"""Of learning rates, the lowest first."""
GREY = "#888888"
VERDICT_STYLES = {"holds": ("#0072B2", "o"), "undecided": (GREY, "s"), "does not hold": ("#D55E00", "X")}
COLUMNS = 4
INKS = {"light": "#1f2328", "dark": "#e6edf3"}
INKED: tuple[Any, ...] = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
)
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.markersize": 4.5,
}


def save(plots: Mapping[str, Draw], folder: Path) -> None:
    """Write every plot to `folder/NAME-light.svg` and `folder/NAME-dark.svg`."""
    for name, draw in plots.items():
        for theme, ink in INKS.items():
            file = folder / f"{name}-{theme}.svg"
            with rc_context({**LOOK, **dict.fromkeys(INKED, ink), "svg.hashsalt": name}), replacing(file) as written:
                draw().savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def paths(results: Results, arms: Sequence[Arm]) -> Figure:
    """How each arm's gain grows with updates, a panel an arm and a line a learning rate, named at its end."""
    figure, panels = _grid(arms)
    for arm, panel in zip(arms, panels, strict=True):
        for rate, (colour, line) in _styled(results):
            panel.plot(*results.mean_path(arm, rate, "updates", "judged").T, color=colour, linestyle=line, marker="o")
            for path in results.seed_paths(arm, rate, "updates"):
                panel.plot(*path.T, color=colour, linewidth=0.6, alpha=0.4)
        panel.margins(x=0.22)
        panel.set_xlim(left=0)
        panel.set_xlabel("updates")
    panels[0].set_ylabel(f"gain in {_judged(arms)}")
    _shared_y(panels)
    for arm, panel in zip(arms, panels, strict=True):
        _name_rates(results, arm, panel, "updates")
    return figure


def _name_rates(results: Results, arm: Arm, panel: Axes, axis: str) -> None:
    """Each at the end of its line, or as near to it as others leave room."""
    low, high = panel.get_ylim()
    ends = [(*results.mean_path(arm, rate, axis, "judged")[-1], rate, style) for rate, style in _styled(results)]
    lowest = -np.inf
    for x, y, rate, (colour, _) in sorted(ends, key=lambda end: float(end[1])):
        lowest = max(float(y), lowest + 0.09 * (high - low))
        panel.annotate(
            f"{rate:g}", (x, lowest), (3, 0), textcoords="offset points", va="center", color=colour, fontsize=8
        )


def fronts(results: Results, arms: Sequence[Arm]) -> Figure:
    """What each arm gains against its drift, a panel an arm and a line a rate; DRTune's choice in grey across all.

    The bar is what it was found to gain within the budget of drift, with intervals that hold together. What lies beyond
    three times the budget is cut off.
    """
    figure, panels = _grid(arms)
    gains = simultaneous(np.stack([results.values(arm, NEAR) for arm in arms]))
    for arm, gain, panel in zip(arms, gains, panels, strict=True):
        for rate, (colour, line) in _styled(results):
            panel.plot(*results.mean_path(arm, rate, "drift", "judged").T, color=colour, linestyle=line, marker="o")
            for path in results.seed_paths(arm, rate, "drift"):
                panel.plot(*path.T, color=colour, linewidth=0.6, alpha=0.4)
        panel.axvline(NEAR, color=GREY, linewidth=0.8, linestyle=":")
        if np.isfinite(gain.low):
            panel.plot([NEAR, NEAR], [gain.low, gain.high], color=GREY, linewidth=4, alpha=0.6)
        if arm.way != DRTUNE and arms[0].way == DRTUNE:
            panel.axhline(gains[0].mean, color=GREY, linestyle="--", linewidth=1)
            place = (0, gains[0].mean), (2, 3)
            panel.annotate(DRTUNE, *place, ("axes fraction", "data"), "offset points", color=GREY, fontsize=8)
        panel.set_xlabel("drift")
    panels[0].set_ylabel(f"gain in {_judged(arms)}")
    _shared_y(panels)
    furthest = min(3 * NEAR, max(panel.get_xlim()[1] for panel in panels))
    for arm, panel in zip(arms, panels, strict=True):
        panel.set_xlim(0, furthest)
        _name_rates(results, arm, panel, "drift")
    return figure


def leads(findings: Sequence[Finding]) -> Figure:
    """Inequalities with their intervals, a line each with its name beside it, and the bound that it must pass.

    What was trained on different objectives has a panel, and so an axis, of its own.
    """
    parts: dict[str, list[Finding]] = {}
    for finding in findings:
        parts.setdefault(finding.inequality.objective, []).append(finding)
    heights = [1.2 + len(part) for part in parts.values()]
    figure = Figure(figsize=(8.4, 0.4 * sum(heights) + 0.3), layout="constrained")
    panels = figure.subplots(len(parts), height_ratios=heights, squeeze=False)[:, 0]
    for panel, (objective, part) in zip(panels, parts.items(), strict=True):
        for place, finding in enumerate(part):
            _lead(panel, place, finding)
        panel.set_yticks(range(len(part)), [f"{finding.inequality} ({finding.verdict})" for finding in part])
        panel.set_ylim(len(part) - 0.4, -0.6)
        panel.locator_params(axis="x", nbins=6)  # more run into each other beside such long names
        panel.set_xlabel(f"in {part[0].inequality.measure or short(OBJECTIVES[objective].judged)}")
        if len(parts) > 1:
            panel.set_title(f"trained on {objective}")
    return figure


def _lead(panel: Axes, place: int, finding: Finding) -> None:
    one, (colour, marker) = finding.estimate, VERDICT_STYLES[finding.verdict]
    panel.plot(one.mean, place, marker=marker, color=colour, markersize=7)
    if np.isfinite(one.low):
        panel.plot([one.low, one.high], [place, place], color=colour)
    for bound in (finding.inequality.above, finding.inequality.below):
        if np.isfinite(bound):
            panel.plot([bound, bound], [place - 0.4, place + 0.4], color=GREY, linestyle=":")


def study_plots(
    results: Results, hypotheses: Sequence[Hypothesis], findings: Mapping[str, Sequence[Finding]]
) -> dict[str, Draw]:
    """All of the page of claims, by name."""
    plots: dict[str, Draw] = {}
    for (objective, steps, budget), arms in results.groups(hypotheses).items():
        name = slug(objective, steps, budget)
        plots[f"updates-{name}"] = partial(paths, results, arms)
        if budget == NEAR:
            plots[f"fronts-{name}"] = partial(fronts, results, arms)
    plots |= {f"claim-{name}": partial(leads, found) for name, found in findings.items()}
    if story := results.groups(hypotheses).get((SYMMETRY, STEPS, NEAR)):
        plots["story"] = partial(fronts, results, story[:COLUMNS])
    return plots


def slug(objective: str, steps: int, budget: float) -> str:
    """What they are called in names of files."""
    words = f"{objective}-T{steps}".replace(" + ", "-and-").replace(" ", "-")
    return words if budget == NEAR else f"{words}-far"


def _grid(arms: Sequence[Arm]) -> tuple[Figure, list[Axes]]:
    """A panel for each arm, named."""
    columns = min(COLUMNS, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(8.4, 2.5 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(arms) :]:
        panel.remove()
    for arm, panel in zip(arms, panels[: len(arms)], strict=True):
        panel.set_title(arm.way)
    return figure, panels[: len(arms)]


def _shared_y(panels: Sequence[Axes]) -> None:
    """One scale for what is compared."""
    limits = np.array([panel.get_ylim() for panel in panels])
    for panel in panels:
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _styled(results: Results) -> list[tuple[float, tuple[str, Any]]]:
    """The same for a rate on every page."""
    styles = dict(zip(FULL.rates, RATE_STYLES, strict=True))
    return [(rate, styles[rate]) for rate in results.scale.rates]


def _judged(arms: Sequence[Arm]) -> str:
    return short(OBJECTIVES[arms[0].objective].judged)

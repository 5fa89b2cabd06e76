"""The plots of the page, each as two SVGs: for light and for dark surroundings.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), and no two lines differ by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from drtune.files.local import replacing
from science.costs import ALPHAS, KEEPING
from science.design import BOTH_KINDS, WINDOWS, methods, windows
from science.results import AXES, ENDED, NEAR, Results
from science.statistics import Floats, estimate

Style = dict[str, Any]


def _style(colour: str, marker: str, line: str) -> Style:
    return {"color": colour, "marker": marker, "linestyle": line}


STYLES = {
    "DRTune": _style("#D55E00", "o", "-"),
    "full": _style("#0072B2", "s", "-"),
    "DRaFT-4": _style("#009E73", "^", "-"),
    "AlignProp": _style("#E69F00", "v", "-"),
    "ReFL": _style("#CC79A7", "D", "--"),
    "DRaFT-1": _style("#56B4E9", "X", "--"),
    "DRaFT-LV": _style("#888888", "P", "--"),
}
"""Of each method: broken lines train the last step or one of the last alone."""
DRIFTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Budgets of drift that are looked at."""
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
    "lines.markersize": 5.5,
}


def draw_all(results: Results, folder: Path) -> None:
    """Write every plot to `folder/NAME-light.svg` and `folder/NAME-dark.svg`."""
    plots: dict[str, Callable[[Results], Figure]] = {f"reward-{axis}": partial(fronts, axis=axis) for axis in AXES}
    plots |= {"story": story, "windows": by_window, "gradients": gradients, "costs": costs}
    for name, draw in plots.items():
        for theme, ink in INKS.items():
            file = folder / f"{name}-{theme}.svg"
            with rc_context({**LOOK, **dict.fromkeys(INKED, ink), "svg.hashsalt": name}), replacing(file) as written:
                draw(results).savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def fronts(results: Results, axis: str) -> Figure:
    """The best gain of every method within budgets, so no line falls; a panel for each reward."""
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    panels = _panels(figure, results.scale.rewards)
    for reward, panel in panels:
        front(results, panel, reward, axis)
        panel.set_title(f"trained on {reward}")
        panel.set_xlabel(f"at most so much: {AXES[axis]}")
        panel.set_ylabel("gain in the reward")
    _legend(figure, [panel for _, panel in panels])
    return figure


def story(results: Results) -> Figure:
    """The one that tells it: a low-level reward and the preference, both at most 1, on one scale."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = _panels(figure, BOTH_KINDS, rows=1)
    for reward, panel in panels:
        front(results, panel, reward, "updates")
        panel.set_title(f"trained on {reward}")
        panel.set_xlabel("updates")
    first, second = (panel for _, panel in panels)
    second.sharey(first)
    first.set_ylabel("gain in the reward")
    _legend(figure, [first, second])
    return figure


def front(results: Results, panel: Axes, reward: str, axis: str) -> None:
    """One panel of `fronts`."""
    labels = results.labels(reward)
    for place, label in enumerate(labels):
        budgets = np.array(_budgets(results, label, axis))
        gains = results.best(methods, label, reward, axis, budgets.tolist())
        aside = 0.03 * (place - len(labels) / 2)  # or the intervals would cover each other
        x = budgets * (1 + aside) if axis == "drift" else budgets + aside * budgets[-1] / 4
        _with_intervals(panel, x, gains, label, STYLES[label])
    if axis == "drift":
        panel.set_xscale("log")
        panel.set_xticks(DRIFTS, [f"{drift:g}" for drift in DRIFTS])
        panel.xaxis.set_minor_locator(NullLocator())
    else:
        panel.set_xlim(left=0)


def _budgets(results: Results, label: str, axis: str) -> Sequence[float]:
    if axis == "drift":
        return DRIFTS
    each = results.seconds[label] if axis == "seconds" else 1.0
    return [each * update for update in results.scale.checks]


def by_window(results: Results) -> Figure:
    """What the earliest, middle and latest steps gain when they alone train."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = _panels(figure, results.scale.rewards, rows=1)
    ways = {NEAR: _style("#888888", "s", ":"), ENDED: STYLES["DRTune"]}
    for reward, panel in panels:
        for shift, (way, style) in zip((-0.06, 0.06), ways.items(), strict=True):
            gains = np.array([results.gains(windows, label, reward, way) for label in WINDOWS])
            _with_intervals(panel, [place + shift for place in range(3)], gains.T, way, style)
        panel.set_xticks(range(3), list(WINDOWS))
        panel.set_title(reward)
        panel.axhline(0, color="#808080", linewidth=0.8)
    panels[0][1].set_ylabel("gain in the reward")
    _legend(figure, [panel for _, panel in panels])
    return figure


def gradients(results: Results) -> Figure:
    """Norm of the gradient, and how far batches agree about it, against T, by alpha."""
    figure = Figure(figsize=(8.4, 6.0), layout="constrained")
    styles = dict(zip(ALPHAS, (STYLES["DRTune"], _style("#888888", "P", ":"), STYLES["full"]), strict=True))
    chains = list(results.scale.chains)
    titles = {"norm": "norm of the gradient", "agreement": "cosine of two batches"}
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (what, title) in zip(grid, titles.items(), strict=True):
        for panel, reward in zip(row, BOTH_KINDS, strict=True):
            for place, (alpha, style) in enumerate(styles.items()):
                found = np.array([results.gradients(reward, steps)[str(alpha)][what] for steps in chains]).T
                beside = 1 + 0.03 * (place - 1)
                _with_intervals(panel, np.array(chains) * beside, found, f"alpha = {alpha:g}", style)
            panel.set_xscale("log")
            panel.set_xticks(chains, [str(steps) for steps in chains])
            panel.xaxis.set_minor_locator(NullLocator())
            if what == "norm":
                panel.set_title(f"gradient of {reward}")
            else:
                panel.set_xlabel("T, steps of the chain, all trained")
        row[0].set_ylabel(title)
    _legend(figure, [grid[0][0]])
    return figure


def costs(results: Results) -> Figure:
    """Memory and time of an update against T: every method by the sweep, and two that keep their graphs."""
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    memory, time = figure.subplots(1, 2)
    chains = list(results.scale.chains)
    kept = {f"{method}, {KEEPING}": STYLES[method] | {"linestyle": ":"} for method in ("DRTune", "full")}
    for way, style in (STYLES | kept).items():
        found = [results.costs(steps)[way] for steps in chains]
        memory.plot(chains, [cost["bytes"] / 2**20 for cost in found], label=way, **style)
        _with_intervals(time, np.array(chains), np.array([cost["seconds"] for cost in found]).T, way, style)
    memory.set_yscale("log")
    for panel, title in ((memory, "peak memory above what stands, MiB"), (time, "seconds per update")):
        panel.set_title(title)
        panel.set_xlabel("T, steps of the chain")
        panel.set_xticks(chains)
    _legend(figure, [memory], columns=5)
    return figure


def _with_intervals(panel: Axes, x: Sequence[float] | Floats, values: Floats, label: str, style: Style) -> None:
    """A line through the means of values (N, X), with their intervals."""
    found = [estimate(column) for column in values.T]
    means = np.array([one.mean for one in found])
    spread = np.array([[one.mean - one.low for one in found], [one.high - one.mean for one in found]])
    panel.errorbar(x, means, yerr=spread, label=label, capsize=2, elinewidth=0.9, linewidth=1.6, **style)


def _panels(figure: Figure, rewards: Sequence[str], rows: int | None = None) -> list[tuple[str, Axes]]:
    rows = rows or (len(rewards) + 1) // 2
    grid: Iterator[Axes] = iter(figure.subplots(rows, -(-len(rewards) // rows), squeeze=False).flat)
    return list(zip(rewards, grid, strict=True))


def _legend(figure: Figure, panels: Sequence[Axes], columns: int = 7) -> None:
    """One legend below, of all that any panel shows."""
    shown = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=columns, columnspacing=1.2, handletextpad=0.4
    )

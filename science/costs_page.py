"""The page of what depth costs, from the records of science/costs.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from drtune.files.local import write_text
from science.arms import DRTUNE, STEPS
from science.costs import ALPHAS, BATCHES, BOTH_KINDS, CHAINS, COSTED, KEEPING, REPEATS, Gradients, UpdateCosts
from science.figures import save
from science.page import plot, render
from science.statistics import Estimate, of_cosines, of_positive

TEMPLATE = Path(__file__).with_name("costs.md.jinja")
Found = dict[str, dict[str, Any]]
"""Of each measurement, by its name."""
Style = dict[str, Any]
ALPHA_STYLES: tuple[Style, ...] = (
    {"color": "#D55E00", "marker": "o"},
    {"color": "#888888", "marker": "P", "linestyle": ":"},
    {"color": "#0072B2", "marker": "s", "linestyle": "--"},
)
WAY_STYLES: dict[str, Style] = {
    DRTUNE: {"color": "#D55E00", "marker": "o"},
    "full": {"color": "#0072B2", "marker": "s"},
    "DRaFT-4": {"color": "#009E73", "marker": "^"},
    "AlignProp": {"color": "#E69F00", "marker": "v"},
    "ReFL": {"color": "#CC79A7", "marker": "D", "linestyle": "--"},
    "DRaFT-1": {"color": "#56B4E9", "marker": "X", "linestyle": "--"},
    "DRaFT-LV": {"color": "#888888", "marker": "P", "linestyle": "--"},
}


def write_costs_page(found: Found, page: Path, command: str) -> None:
    """Write the page and, in a folder of its name beside it, its plots."""
    save({"gradients": partial(_draw_gradients, found), "costs": partial(_draw_costs, found)}, page.with_suffix(""))
    gradients = {what: list(_gradient_rows(found, what)) for what in ("norm", "agreement")}
    contents: dict[str, Any] = {"batches": BATCHES, "steps": STEPS, "chains": CHAINS, "repeats": REPEATS}
    contents["grown"] = [f"{reward} at alpha = {alpha:g}" for reward, alpha in _grown(found)]
    contents |= {"plot": partial(plot, page.stem), "gradients": gradients, "costs": list(_cost_rows(found))}
    write_text(page, render(TEMPLATE, command=command, **contents))


def _gradients(found: Found, reward: str, steps: int) -> dict[str, Any]:
    return found[Gradients(reward, steps, BATCHES).name]


def _costs(found: Found, steps: int) -> dict[str, Any]:
    return found[UpdateCosts(steps, REPEATS).name]


def _estimated(what: str, values: Sequence[float]) -> Estimate:
    return of_cosines(values) if what == "agreement" else of_positive(values)


def _gradient_rows(found: Found, what: str) -> Iterator[dict[str, Any]]:
    for reward in BOTH_KINDS:
        for steps in CHAINS:
            measured = _gradients(found, reward, steps)
            estimates = [_estimated(what, measured[str(alpha)][what]) for alpha in ALPHAS]
            yield {"reward": reward, "steps": steps, "found": estimates}


def _grown(found: Found) -> Iterator[tuple[str, float]]:
    """Rewards and alphas whose gradient is surely larger in the longest chain than in the shortest."""
    for reward in BOTH_KINDS:
        for alpha in ALPHAS:
            short, long = (
                of_positive(_gradients(found, reward, steps)[str(alpha)]["norm"]) for steps in (CHAINS[0], CHAINS[-1])
            )
            if long.low > short.high:
                yield reward, alpha


def _cost_rows(found: Found) -> Iterator[dict[str, Any]]:
    shortest, longest = _costs(found, CHAINS[0]), _costs(found, CHAINS[-1])
    for way, cost in _costs(found, STEPS).items():
        growth = f"{longest[way]['bytes'] / shortest[way]['bytes']:.2f}" if way in longest else ""
        yield {"way": way, "seconds": of_positive(cost["seconds"]), "mib": cost["bytes"] / 2**20, "growth": growth}


def _draw_gradients(found: Found) -> Figure:
    """Norm of the gradient, and how far batches agree about it, against T, by alpha."""
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    titles = {"norm": "norm of the gradient", "agreement": "cosine of two batches"}
    for row, (what, title) in zip(figure.subplots(2, 2, sharex=True), titles.items(), strict=True):
        for panel, reward in zip(row, BOTH_KINDS, strict=True):
            for place, (alpha, style) in enumerate(zip(ALPHAS, ALPHA_STYLES, strict=True)):
                values = [_gradients(found, reward, steps)[str(alpha)][what] for steps in CHAINS]
                x = np.array(CHAINS) * (1 + 0.03 * (place - 1))  # or the intervals would cover each other
                _with_intervals(panel, x, [_estimated(what, one) for one in values], style, f"alpha = {alpha:g}")
            panel.set_xscale("log")
            panel.set_xlim(right=1.9 * CHAINS[-1])
            panel.set_xticks(CHAINS, [str(steps) for steps in CHAINS])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_title(f"{title}, {reward}")
            if what == "norm":
                panel.set_yscale("log")
            else:
                panel.set_xlabel("T, steps of the chain, all trained")
    return figure


def _draw_costs(found: Found) -> Figure:
    """Memory and time of an update against T: every method by the sweep, and two that keep their graphs."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    memory, time = figure.subplots(1, 2)
    kept = {f"{way}, {KEEPING}": WAY_STYLES[way] | {"linestyle": ":"} for way in (DRTUNE, "full")}
    for way, style in ({way: WAY_STYLES[way] for way in COSTED} | kept).items():
        costs = [_costs(found, steps)[way] for steps in CHAINS]
        memory.plot(CHAINS, [cost["bytes"] / 2**20 for cost in costs], label=way, **style)
        time.plot(CHAINS, [of_positive(cost["seconds"]).mean for cost in costs], **style)
    memory.set_yscale("log")
    for panel, title in ((memory, "peak memory above what stands, MiB"), (time, "seconds per update")):
        panel.set_title(title)
        panel.set_xlabel("T, steps of the chain")
        panel.set_xticks(CHAINS)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _with_intervals(panel: Axes, x: Any, found: Sequence[Estimate], style: Style, name: str) -> None:
    """A line through estimates, named at its end."""
    means = np.array([one.mean for one in found])
    spread = np.array([[one.mean - one.low for one in found], [one.high - one.mean for one in found]])
    panel.errorbar(x, means, yerr=spread, capsize=2, elinewidth=0.9, **style)
    panel.annotate(name, (x[-1], means[-1]), (5, 0), textcoords="offset points", va="center", color=style["color"])

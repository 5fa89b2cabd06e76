"""The page that tells what came out: claims, tables, plots and pictures, all from the records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image
from scipy.stats import t as student

from drtune.files.local import replacing, write_text
from science.cell import config_of
from science.claims import MARGIN, claims
from science.costs import ALPHAS
from science.design import (
    ABLATIONS,
    BOTH_KINDS,
    FULL,
    REWARDS,
    STEPS,
    WINDOWS,
    Cell,
    Scale,
    ablations,
    alphas,
    cells_of,
    methods,
    windows,
)
from science.figures import INKS, draw_all
from science.results import DRIFT, ENDED, NEAR, WAYS, Records, Results
from science.statistics import estimate

TEMPLATE = Path(__file__).with_name("page.md.jinja")
READING = Path(__file__).with_name("reading.md")
"""What a person makes of the full study."""
SIDE = 32
"""Pixels of a picture in the records."""
SHOWN = 10
"""Pictures of each model on the page."""


def write_page(scale: Scale, records: Records, page: Path, command: str) -> None:
    """Write the page and, in a folder of its name beside it, its plots; its pictures are cut by `cut_pictures`."""
    results = Results(scale, records)
    draw_all(results, page.with_suffix(""))
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_text(page, template.render(contents(results, page, command)).rstrip() + "\n")


def contents(results: Results, page: Path, command: str) -> dict[str, Any]:
    """What the template shows."""
    scale = results.scale
    config = config_of(cells_of(scale)[0], scale)
    return {
        "command": command,
        "reading": READING.read_text(encoding="utf-8").strip() if scale == FULL else "",
        "trainings": len(cells_of(scale)),
        "scale": scale,
        "batch": config.batch_size,
        "steps": STEPS,
        "guidance": (config.sampler.guidance_scale, config.evaluation.sampler.guidance_scale),
        "rates": ", ".join(f"{rate:g}" for rate in scale.learning_rates),
        "checks": ", ".join(map(str, scale.checks)),
        "student": student.ppf(0.975, scale.seeds - 1),
        "diverged": sum("diverged" in record for record in results.records.values()),
        "claims": claims(results),
        "margin": MARGIN,
        "drift": DRIFT,
        "ways": WAYS,
        "window_ways": (ENDED, NEAR),
        "k": len(WINDOWS["earliest"]),
        "rewards": [_reward(results, reward) for reward in scale.rewards],
        "windows": list(_windows(results)),
        "gradients": list(_gradients(results)),
        "alphas": list(_alphas(results)),
        "ablations": list(_ablations(results)),
        "costs": list(_costs(results)),
        "equal": [_equal(results, reward) for reward in scale.rewards],
        "pictures": pictures(results),
        "folder": page.stem,
        "plot": partial(_plot, page.stem),
    }


def _plot(folder: str, name: str, says: str) -> str:
    """A plot in the ink that the reader's surroundings ask for."""
    light, dark = (f"{folder}/{name}-{ink}.svg" for ink in INKS)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{says}" src="{light}"></picture>\n'
    )


def _reward(results: Results, reward: str) -> dict[str, Any]:
    bases = [results.records[_first(results, seed, reward).name]["checks"][0] for seed in range(results.scale.seeds)]
    ended = {label: results.ended(methods, label, reward) for label in results.labels(reward)}
    rows = [
        {
            "label": label,
            "gains": [estimate(results.gains(methods, label, reward, way)) for way in WAYS],
            "drift": own[:, 1].mean(),
            "difference": "" if label == "DRTune" else estimate(ended["DRTune"][:, 0] - own[:, 0]),
        }
        for label, own in ended.items()
    ]
    base = estimate([check["measures"][REWARDS[reward]] for check in bases])
    return {"name": reward, "base": base, "rows": rows}


def _first(results: Results, seed: int, reward: str) -> Cell:
    return results.trainings(methods, "DRTune", seed, reward)[0]


def _windows(results: Results) -> Iterator[dict[str, Any]]:
    for reward in results.scale.rewards:
        for label in WINDOWS:
            gains = [estimate(results.gains(windows, label, reward, way)) for way in (ENDED, NEAR)]
            yield {"reward": reward, "label": label, "gains": gains}


def _gradients(results: Results) -> Iterator[dict[str, Any]]:
    for reward, steps in product(BOTH_KINDS, results.scale.chains):
        found = results.gradients(reward, steps)
        shown = [(what, str(alpha)) for what in ("norm", "agreement") for alpha in ALPHAS]
        yield {"reward": reward, "steps": steps, "found": [estimate(found[alpha][what]) for what, alpha in shown]}


def _alphas(results: Results) -> Iterator[dict[str, Any]]:
    for reward in BOTH_KINDS:
        for label in dict.fromkeys(label for label, _ in alphas(results.scale, 0)):
            cells = [results.trainings(alphas, label, seed, reward)[0] for seed in range(results.scale.seeds)]
            found = np.array([results.path(cell, "reward", "drift", "preference")[-1] for cell in cells])
            yield {"reward": reward, "label": label, "found": [estimate(column) for column in found.T]}


def _ablations(results: Results) -> Iterator[dict[str, Any]]:
    for letter, (_, default, values) in ABLATIONS.items():
        for value in values:
            label = f"{letter} = {value}"
            gain, near = (estimate(results.gains(ablations, label, "symmetry", way)) for way in (ENDED, NEAR))
            yield {"label": f"{label} (default)" if value == default else label, "gain": gain, "near": near}


def _costs(results: Results) -> Iterator[dict[str, Any]]:
    shortest, longest = (results.costs(steps) for steps in (results.scale.chains[0], results.scale.chains[-1]))
    for way, cost in results.costs(STEPS).items():
        growth = f"{longest[way]['bytes'] / shortest[way]['bytes']:.2f}" if way in longest else ""
        yield {"way": way, "seconds": estimate(cost["seconds"]), "mib": cost["bytes"] / 2**20, "growth": growth}


def level_of(results: Results, reward: str) -> float:
    """The highest gain that every method reached for every seed."""
    labels = results.labels(reward)
    return min(
        float(results.best(methods, label, reward, "updates", [results.scale.updates]).min()) for label in labels
    )


def _equal(results: Results, reward: str) -> dict[str, Any]:
    level = level_of(results, reward)
    told = [name for name in ("preference", "diversity_across") if name != reward]  # its own gain is the level
    rows = []
    for label in results.labels(reward) if level > 0 else []:
        found = results.at_reward(label, reward, level, told)
        rows.append({"label": label, "found": [str(estimate(column)) for column in found.T]})
    return {"name": reward, "level": level, "told": [name.partition("_")[0] for name in told], "rows": rows}


@dataclass(frozen=True)
class Row:
    """The first pictures of one examination."""

    label: str
    cell: Cell
    check: int
    gain: float
    drift: float

    @property
    def file(self) -> str:
        """Name of the picture."""
        return f"pictures-{self.label.replace(', ', '-').replace(' ', '-')}.png"


def pictures(results: Results) -> list[Row]:
    """The base's, every method's of least drift at a level, and two at the end of the highest rate; all of one seed."""
    level = level_of(results, "symmetry")
    first = _first(results, 0, "symmetry")
    rows = [Row("base", first, 0, 0.0, 0.0)]
    for label in results.labels("symmetry"):
        examined = _rows(results, label, results.trainings(methods, label, 0, "symmetry"))
        rows.append(min((row for row in examined if row.gain >= level), key=lambda row: row.drift))
    for label in ("DRTune", "ReFL"):
        cells = results.trainings(methods, label, 0, "symmetry")
        rows.append(_rows(results, f"{label}, at the end", cells[-1:])[-1])
    return rows


def _rows(results: Results, label: str, cells: list[Cell]) -> list[Row]:
    """All examinations of trainings but those of the base."""
    return [
        Row(label, cell, check, gain, drift)
        for cell in cells
        for check, (gain, drift) in enumerate(results.path(cell, "reward", "drift"))
        if check
    ]


def cut_pictures(results: Results, cells: Path, folder: Path) -> None:
    """Write the page's pictures, each cut from the sheet of its training."""
    width = min(SHOWN, results.scale.prompts) * SIDE
    for row in pictures(results):
        with Image.open(cells / f"{row.cell.name}.png") as sheet:
            cut = sheet.crop((0, row.check * SIDE, width, (row.check + 1) * SIDE))
        with replacing(folder / row.file) as written:
            cut.resize((2 * cut.width, 2 * cut.height), Image.Resampling.NEAREST).save(written, format="png")

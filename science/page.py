"""The page of claims: what was predicted, what came, how sure, and what would change our mind; all from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from drtune.files.local import replacing, write_text
from science.arms import FULL, STEPS, Arm, Cell
from science.cell import SHOWN
from science.figures import INKS, save, slug, study_plots
from science.hypotheses import ANY, HYPOTHESES, NEAR, SYMMETRY, Hypothesis, Inequality
from science.records import Study
from science.results import Finding, Results, verdict_of
from science.simultaneous import multiple_of, simultaneous
from science.statistics import Estimate

TEMPLATE = Path(__file__).with_name("page.md.jinja")
READING = Path(__file__).with_name("reading.md")
"""What a person makes of the records that are committed, told where it is of them."""
CEILINGS = (0.04, 0.06, 0.08, NEAR, 0.15)
"""Of drift: what else could have been asked."""
SIDE = 32
"""Pixels of a picture in the records."""


@dataclass(frozen=True)
class Told:
    """A claim on the page."""

    number: int
    hypothesis: Hypothesis
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """Whether it holds."""
        return verdict_of(self.findings) if self.findings else "not run"

    @property
    def by_objective(self) -> dict[str, list[Finding]]:
        """Its findings, by what was trained on."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.inequality.objective, []).append(finding)
        return found


def render(template: Path, **contents: Any) -> str:
    """A page of a template."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(contents).rstrip() + "\n"


def write_page(study: Study, page: Path, command: str) -> None:
    """Write the page and, in a folder of its name beside it, its plots; its pictures are cut by `cut_pictures`."""
    results = Results(study)
    complete = [hypothesis for hypothesis in HYPOTHESES if results.is_complete(hypothesis)]
    findings = results.findings(complete)
    save(study_plots(results, complete, findings), page.with_suffix(""))
    scale, family = study.scale, [one for found in findings.values() for one in found]
    write_text(
        page,
        render(
            TEMPLATE,
            command=command,
            reading=reading_of(study),
            trainings=len(study.records),
            scale=scale,
            rates=", ".join(f"{rate:g}" for rate in scale.rates),
            near=NEAR,
            diverged=len(results.diverged()),
            lacks=list(_lacks(study, complete)),
            family=len(family),
            multiple=multiple_of(results.sums(complete)) if scale.seeds > 1 else 0,
            claims=[
                Told(number, hypothesis, findings.get(hypothesis.name, ()))
                for number, hypothesis in enumerate(HYPOTHESES, start=1)
            ],
            groups=[_group(results, *named, arms) for named, arms in results.groups(complete).items()],
            pictures=shown(results),
            told=told,
            drifts=partial(drifts, results),
            folder=page.stem,
            plot=partial(plot, page.stem),
        ),
    )


def reading_of(study: Study) -> str:
    """The text for these very records; none if they are others than it was written for."""
    first, text = READING.read_text(encoding="utf-8").split("\n", maxsplit=1)
    return text.strip() if study.digest() in first else ""


def told(estimate: Estimate) -> str:
    """A number with its interval, if there is one."""
    return str(estimate) if np.isfinite(estimate.low) else f"{estimate.mean:+.3f}"


def drifts(results: Results, inequality: Inequality) -> str:
    """How far its arms had drifted, in their order."""
    arms = dict.fromkeys(arm for _, arm in inequality.terms)
    return ", ".join(f"{results.values(arm, inequality.budget, 'drift').mean():.3f}" for arm in arms)


def plot(folder: str, name: str, says: str) -> str:
    """A plot in the ink that the reader's surroundings ask for."""
    light, dark = (f"{folder}/{name}-{ink}.svg" for ink in INKS)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{says}" src="{light}"></picture>'
    )


def _lacks(study: Study, complete: Sequence[Hypothesis]) -> Iterator[str]:
    """What the whole design has beyond this."""
    scale, missing = study.scale, [one for one in HYPOTHESES if one not in complete]
    if scale.seeds < FULL.seeds:
        yield f"{FULL.seeds - scale.seeds} of {FULL.seeds} seeds"
    if rates := sorted(set(FULL.rates) - set(scale.rates)):
        yield f"learning rates {', '.join(f'{rate:g}' for rate in rates)}"
    if scale.updates < FULL.updates:
        yield f"{FULL.updates - scale.updates} of {FULL.updates} updates"
    if missing:
        yield f"{len(missing)} of {len(HYPOTHESES)} claims: {', '.join(one.name for one in missing)}"


def _group(results: Results, objective: str, steps: int, budget: float, arms: Sequence[Arm]) -> dict[str, Any]:
    title = f"Trained on {objective}" + (f", T = {steps}" if steps != STEPS else "")
    within = f"within a drift of {budget:g}" if budget < ANY else "however far it drifts"
    ceilings = CEILINGS if budget == NEAR and len(arms) > 1 else ()
    return {
        "title": f"{title}, {within}",
        "slug": slug(objective, steps, budget),
        "near": budget == NEAR,
        "rows": list(_rows(results, arms, budget)),
        "ceilings": {ceiling: [results.of_first_seeds(arm, ceiling) for arm in arms] for ceiling in ceilings},
    }


def _rows(results: Results, arms: Sequence[Arm], budget: float) -> Iterator[dict[str, Any]]:
    gains = simultaneous(np.stack([results.values(arm, budget) for arm in arms]))
    for arm, gain in zip(arms, gains, strict=True):
        choice, updates = results.choice(arm, budget), results.updates(arm, budget)
        tera = updates * results.study.flops[arm] / 1e12
        records = results.records(arm, choice.rate)
        seconds = updates * float(np.mean([record.seconds / record.checks_C[-1] for record in records]))
        yield {
            "way": arm.way,
            "gain": gain,
            "drift": results.values(arm, budget, "drift").mean(),
            "preference": results.values(arm, budget, "preference").mean(),
            "rate": choice.rate,
            "edge": results.at_edge(arm, budget),
            "updates": updates,
            "tera": tera,
            "tera_per": 0.1 * tera / gain.mean if gain.mean > 0 else None,
            "seconds_per": 0.1 * seconds / gain.mean if gain.mean > 0 else None,
        }


@dataclass(frozen=True)
class Row:
    """The first pictures of one examination."""

    label: str
    cell: Cell
    check: int
    """Which examination, from the base's."""

    @property
    def file(self) -> str:
        """Name of the picture; with the learning rate, of which the study that goes on may choose another."""
        name = "-".join(self.label.replace(",", "").split())
        return f"pictures-{name}.png" if self.check == 0 else f"pictures-{name}-{self.cell.learning_rate:g}.png"


def shown(results: Results) -> list[Row]:
    """The base's pictures, and those of each way to train on symmetry with preference at its end."""
    arms = [arm for arm in results.study.arms if (arm.objective, arm.steps) == (SYMMETRY, STEPS)]
    cells = [Cell(arm, results.choice(arm, NEAR).rate, 0) for arm in arms]
    rows = [Row(cell.arm.way, cell, len(results.study.records[cell].checks_C) - 1) for cell in cells]
    return [Row("base", cells[0], 0), *rows] if rows else []


def cut_pictures(study: Study, cells: Path, folder: Path) -> None:
    """Write the page's pictures, each cut from the sheet of its training; that of an earlier study stays as it was."""
    width = min(SHOWN, study.scale.prompts // 2) * SIDE
    rows = shown(Results(study))
    for old in set(folder.glob("pictures-*.png")) - {folder / row.file for row in rows}:
        old.unlink()
    for row in rows:
        if not (source := cells / f"{row.cell.name}.png").exists() and (folder / row.file).exists():
            continue
        with Image.open(source) as sheet:
            cut = sheet.crop((0, row.check * SIDE, width, (row.check + 1) * SIDE))
        with replacing(folder / row.file) as written:
            cut.resize((2 * cut.width, 2 * cut.height), Image.Resampling.NEAREST).save(written, format="png")

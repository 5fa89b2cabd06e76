"""Run the study: every training and every measurement that has no record yet, then its pages.

python -m science [--claims NAME,...] [--seeds N] [--rates RATE,...] [--quick] [--out FOLDER] [--earlier FOLDER]
    [--page FILE]
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import click

from drtune.files.local import write_text
from science.arms import FULL, QUICK, Cell, Scale, choosing_cells
from science.costs import MEASUREMENTS
from science.costs_page import write_costs_page
from science.hypotheses import HYPOTHESES, arms_of, asked
from science.page import cut_pictures, write_page
from science.records import Study, collect
from science.results import Results
from science.run import run_missing

COSTS = "costs"
NAMES = (*(hypothesis.name for hypothesis in HYPOTHESES), COSTS)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--claims", default="", help=f"Only these, joined by commas: {', '.join(NAMES)}. All, if none is named.")
@click.option("--seeds", type=click.IntRange(1, FULL.seeds), help="Only the first so many.")
@click.option("--rates", default="", help="Only these learning rates, joined by commas.")
@click.option("--quick", is_flag=True, help="The main claim alone, much smaller, in under 15 minutes.")
@click.option("--workers", type=click.IntRange(1), show_default="one a core", help="Trainings side by side.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/science"),
    help="Folder of the records. What is there is not run again: empty it when the code has changed.",
)
@click.option(
    "--earlier",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Records of a page of the same design, as in docs/science: what they hold is not run again.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="OUT/science.md",
    help="The page that is written, its records and plots in a folder beside it.",
)
def main(
    claims: str,
    seeds: int | None,
    rates: str,
    quick: bool,
    workers: int | None,
    out: Path,
    earlier: Path | None,
    page: Path | None,
) -> None:
    """Try the paper's claims on the miniature, and write a page of what came out.

    Stopped at any time, the same command goes on from where it was.
    """
    scale, folder = (QUICK, out / "quick") if quick else (FULL, out / "full")
    names = _names(claims) or (["depth"] if quick else list(NAMES))
    hypotheses = asked([name for name in names if name != COSTS]) if names != [COSTS] else ()
    scale = replace(scale, seeds=seeds or scale.seeds, rates=_rates(rates, scale.rates))
    measurements = MEASUREMENTS if COSTS in names else []
    before = _earlier(earlier, scale)
    cells = choosing_cells(arms_of(hypotheses), scale)
    try:
        run_missing(_without(before, cells), measurements, scale, folder, workers)
        if hypotheses:
            cells += Results(collect(cells, scale, folder, before)).further(hypotheses)
            run_missing(_without(before, cells), [], scale, folder, workers)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {folder}, and the same command goes on from there", err=True)
        raise click.exceptions.Exit(128 + signal.SIGINT) from None
    except BrokenProcessPool:
        raise click.ClickException("a worker was killed, as when memory runs out; the same command goes on") from None
    page = page or folder / "science.md"
    command = "make science" + (" QUICK=1" if quick else "") + (f" CLAIMS={claims}" if claims else "")
    command += (f" SEEDS={seeds}" if seeds else "") + (f" RATES={rates}" if rates else "")
    if hypotheses:
        study = collect(cells, scale, folder, before)
        study.save(page.with_suffix(""))
        write_page(study, page, command)
        cut_pictures(study, folder / "cells", page.with_suffix(""))
        click.echo(f"wrote {page} from {len(study.records)} trainings in {folder}")
    if measurements:
        costs_page = page.with_stem(f"{page.stem}-costs")
        found = {cost.name: cost.found(folder / "costs") for cost in measurements}
        write_text(costs_page.with_suffix("") / "records.json", json.dumps(found, separators=(",", ":")))
        write_costs_page(found, costs_page, "make science CLAIMS=costs")
        click.echo(f"wrote {costs_page}")


def _earlier(folder: Path | None, scale: Scale) -> Study:
    """The study in a folder; an empty one without a folder.

    Raises:
        BadParameter: its trainings were longer, or examined otherwise.
    """
    if folder is None:
        return Study(scale, {}, {})
    study = Study.load(folder)
    if replace(study.scale, seeds=scale.seeds, rates=scale.rates) != scale:
        raise click.BadParameter(f"{folder} holds a study of another design", param_hint="--earlier")
    return study


def _without(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell not in study.records]


def _names(claims: str) -> list[str]:
    """The claims that are asked for.

    Raises:
        BadParameter: there is none of a name.
    """
    names = [name.strip() for name in claims.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise click.BadParameter(f"no claim {unknown[0]!r}; there are {', '.join(NAMES)}", param_hint="--claims")
    return names


def _rates(rates: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """The learning rates that are asked for, among those of the design.

    Raises:
        BadParameter: the design has none of them.
    """
    try:
        asked_for = tuple(sorted(float(rate) for rate in rates.split(",") if rate.strip()))
    except ValueError:
        raise click.BadParameter(f"{rates!r} are no numbers joined by commas", param_hint="--rates") from None
    if beyond := [rate for rate in asked_for if rate not in default]:
        known = ", ".join(f"{rate:g}" for rate in default)
        raise click.BadParameter(f"{beyond[0]:g} is not in the design, which has {known}", param_hint="--rates")
    return asked_for or default


if __name__ == "__main__":
    main()

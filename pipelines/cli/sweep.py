"""Runs that differ in some settings, and one table: `drtune-pipeline sweep` here, `submit --vary` on a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtune.cli.console import OVERWRITE, PATH
from pipelines.cli.options import arguments_of, tuning

if TYPE_CHECKING:
    from pipelines.server.client import Client
    from pipelines.server.runs import Job
    from pipelines.sweeps import Cell, Row

TABLE, PAGE = "sweep.csv", "sweep.md"
VARY: dict[str, Any] = {
    "metavar": "KEY=A,B,...",
    "multiple": True,
    "help": "A key of the configuration and its values. Repeatable: every combination is tried.",
}


@click.command()
@click.option("--vary", "varied", required=True, **VARY)
@tuning
@click.option("--out", type=PATH, default="runs/sweep", show_default=True, help="Folder for all runs, and the table.")
@OVERWRITE
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    varied: tuple[str, ...],
    out: Path,
    overwrite: bool,
    overrides: tuple[str, ...],
    references: tuple[str, ...],
    **given: Any,
) -> None:
    """Run the pipeline with several settings, and compare them.

    Every combination of the settings is a run, and one table shows what came of each.

    OUT/sweep.md has a row for each run: its settings, the gains over the base with their intervals, and what the policy
    decides; OUT/sweep.csv has the numbers. Runs are made one after the other, each as `run` makes it, into a folder of
    its own. They publish in OUT/registry alone. A sweep that was ended goes on when it is started again; --overwrite
    makes all runs anew.

    Exit codes: 0 each run came to its end, 1 one failed, 2 something given cannot be used.
    """
    from components.checks import check_parameters
    from components.prepare_prompts.run import refuse_absent
    from drtune.files.local import write_text
    from drtune.files.output import claimed, mark
    from pipelines.sweeps import cells_of, page_of, table_of

    cells = cells_of(varied)
    given |= {"references": list(references)}
    for cell in cells:  # all of them, before the first takes its time
        changed = given | {"overrides": [*overrides, *cell.overrides]}
        arguments = arguments_of("tune", changed, files=["prompts", "config", "policy"])
        check_parameters(arguments, elsewhere=False)
    refuse_absent(arguments["prompts"])
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if isinstance(value, str)]
    options += [f"--set={override}" for override in overrides] + [f"--reference={one}" for one in references]
    with claimed(out, "Sweep", overwrite=True, inputs=[arguments["prompts"]]) as place:
        place.mkdir(parents=True, exist_ok=True)
        mark(place, "Sweep")
        rows = []
        for number, cell in enumerate(cells, start=1):
            click.echo(f"\n== {number} of {len(cells)}: {' '.join(cell.overrides)}")
            rows.append(_run(cell, place, [*options, "--overwrite" if overwrite else "--resume"]))
            write_text(place / PAGE, page_of(rows))  # after each: who waits wants to look
            write_text(place / TABLE, table_of(rows).to_csv(index=False))
    click.echo("\n".join(["", *map(str, rows), f"\ntable: {out / PAGE}, {out / TABLE}"]))
    if any(not row.gains for row in rows):
        ctx.exit(1)


def _run(cell: Cell, out: Path, options: list[str]) -> Row:
    """Run one cell as a process of its own, and read what came of it."""
    from components.decide.gains import gains_of
    from components.endings import mistake_in, refused
    from components.process import run_process
    from drtune.contracts import Decision, EvaluationReport
    from drtune.errors import UserError
    from pipelines.sweeps import Row

    place = out / cell.folder
    settings = [f"--set={override}" for override in cell.overrides]
    where = [f"--out={place}", f"--registry={out / 'registry'}", f"--name={cell.model}"]
    try:
        run_process([sys.executable, "-m", "pipelines.cli.main", "run", *options, *settings, *where])
    except UserError as error:
        return Row(cell.settings, f"failed: {error}")
    except RuntimeError as error:
        told = mistake_in(line.strip() for line in str(error).splitlines())
        return Row(cell.settings, f"failed: {told or str(error).splitlines()[0]}")
    decision = Decision.load(place / "decision")
    rules = [check.reason for check in decision.checks if not check.passed]
    outcome = "deserves to be published" if decision.publish else refused(rules)
    return Row(cell.settings, outcome, gains_of(EvaluationReport.load(place / "report")))


def submit_each(
    ctx: click.Context,
    client: Client,
    wanted: Job,
    cells: Sequence[Cell],
    name: str,
    limits: Mapping[str, Any] | None,
) -> None:
    """Start a run for each cell, all at once; with `limits` of `follow` wait for each, and show what came of all.

    Exit code 1: one did not go well.

    Raises:
        UserError: a cell cannot be run, or the runs are to publish under one name.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    from components.decide.gains import gains_in
    from drtune.errors import UserError
    from pipelines.server.follow import follow
    from pipelines.server.logs import step_log
    from pipelines.server.package import check_files
    from pipelines.server.runs import submit
    from pipelines.sweeps import Row

    if "name" in wanted.arguments:
        raise UserError("name: the runs of a sweep would publish in each other's place; leave it out")
    jobs = []
    for cell in cells:
        overrides = [*(wanted.package.values(wanted.arguments).get("overrides") or []), *cell.overrides]
        arguments = wanted.arguments | {"overrides": overrides, "name": cell.model}
        check_files(wanted.package, arguments)
        jobs.append(replace(wanted, arguments=arguments))
    runs = []
    for cell, job in zip(cells, jobs, strict=True):
        runs.append(submit(client, job, f"{name} {' '.join(cell.overrides)}", click.echo))
        click.echo(f"run {runs[-1].display_name}: {runs[-1].run_id}")
    if limits is None:
        return
    rows, well, since = [], True, time.monotonic()
    for cell, run in zip(cells, runs, strict=True):
        click.echo(f"\n== {' '.join(cell.overrides)}")
        outcome = follow(client, run, wanted.package, click.echo, since=since, **limits)
        gains, well = {}, well and outcome.is_well
        if outcome.is_decided:
            with suppress(UserError, ApiException, HTTPError):  # a log that is gone, or a server that is away just now
                gains = gains_in(step_log(client, client.get_run(run.run_id), wanted.package, "decide"))
        rows.append(Row(cell.settings, outcome.text, gains))
    click.echo("\n".join(["", *map(str, rows)]))
    if not well:
        ctx.exit(1)

"""The commands of `drtune-pipeline` that talk to a Kubeflow Pipelines server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtune.cli.console import PATH
from pipelines.cli.doctor import doctor, refuse_unready
from pipelines.cli.options import (
    ARGUMENTS,
    EXPERIMENT,
    FOLDER,
    INLINE,
    PACKAGE,
    SERVICE_ACCOUNT,
    VERSION,
    Server,
    on_server,
    prepared,
)
from pipelines.cli.schedule import schedule
from pipelines.cli.sweep import VARY, submit_each

if TYPE_CHECKING:
    from pipelines.server.client import Client
    from pipelines.server.outcome import Outcome
    from pipelines.server.package import Package
    from pipelines.server.runs import Job

WAIT = click.option("-w", "--wait", is_flag=True, help="Follow the run to its end.")
TIMEOUT = click.option(
    "-t",
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="With --wait: stop waiting after this time; the run goes on.",
)
PATIENCE = click.option(
    "--patience",
    "pending_seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    help="With --wait: how long a step's pod may wait for its place before it is told what can be done.",
)


@click.command()
@click.argument("packages", metavar="[FILE]...", type=PATH, nargs=-1)
@click.option("--version", help="Name of the version.  [default: package version, day and commit of the code]")
@on_server
def upload(server: Server, packages: tuple[Path, ...], version: str | None) -> None:
    """Put the compiled pipelines on the server. Each as a version named after the code, as 0.1.0-20261128-2e3681f.

    FILE is pipelines/*.yaml of this installation unless given. A version that is there with the same content is left
    alone, so that the command can be repeated.
    """
    from pipelines.server.package import Package
    from pipelines.server.uploads import upload, version_of_code

    read = [Package.read(path) for path in packages or sorted(FOLDER.glob("*.yaml"))]
    name = version or version_of_code()
    with server() as client:
        client.refuse_an_old_server()
        for package in read:
            (pipeline_id, version_id), is_new = upload(client, package, name)
            click.echo(
                f"pipeline {package.name} version {name}: {'uploaded' if is_new else 'there already'}, {version_id}"
            )
            click.echo(client.page(f"pipelines/details/{pipeline_id}/version/{version_id}"))


@click.command()
@PACKAGE
@VERSION
@INLINE
@EXPERIMENT
@click.option("-r", "--run-name", "name", help="Name of the run.  [default: pipeline, model and time]")
@click.option("--vary", "varied", **VARY)
@SERVICE_ACCOUNT
@WAIT
@TIMEOUT
@PATIENCE
@ARGUMENTS
@on_server
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    server: Server,
    name: str | None,
    varied: tuple[str, ...],
    wait: bool,
    timeout_seconds: int | None,
    pending_seconds: int,
    **job: Any,
) -> None:
    """Start a run with these parameters, or with --vary several.

    KEY=VALUE sets a parameter; a list is JSON, as in overrides='["steps=20", "batch_size=4"]'. Parameters and
    configuration are checked before anything is sent; with --wait also the cluster that a kubeconfig file leads to, in
    short, as `doctor` does at length. The run is one of the version of the code, which is uploaded if
    it is not there yet; files that differ from their commit are sent along without a version.

    Runs of --vary start all at once, and publish under names of their own; with --wait what came of each is shown in
    the end, with the gains over the base and their intervals.

    Exit codes: 0 started, with --wait published or refused by the policy; 1 with --wait: failed, cancelled or not over
    in time; 2 something given cannot be used, or the server refuses it.
    """
    _check_waiting(wait, timeout_seconds)
    from pipelines.sweeps import cells_of

    cells = cells_of(varied) if varied else []
    with prepared(server, **job) as (client, wanted):
        if wait:
            refuse_unready(client, wanted, ctx.params["namespace"])
        from pipelines.server.runs import submit

        name = name or _name_of(wanted)
        if cells:
            limits = {"timeout_seconds": timeout_seconds, "pending_seconds": pending_seconds}
            submit_each(ctx, client, wanted, cells, name, limits if wait else None)
            return
        run = submit(client, wanted, name, click.echo)
        click.echo(f"run {name}: {run.run_id}")
        click.echo(client.page(f"runs/details/{run.run_id}"))
        if wait:
            _wait(ctx, client, run, wanted.package, timeout_seconds, pending_seconds)


def _check_waiting(wait: bool, timeout_seconds: int | None) -> None:
    if timeout_seconds and not wait:
        raise click.UsageError("--timeout goes with --wait")


def _name_of(job: Job) -> str:
    """Runs that make the same stand together in a list by name, in the order of their times."""
    named = job.package.values(job.arguments).get("name")
    return " ".join(filter(None, [job.package.name, named, time.strftime("%Y-%m-%d %H:%M:%S")]))


def _wait(
    ctx: click.Context,
    client: Client,
    run: Any,
    package: Package,
    timeout_seconds: float | None,
    pending_seconds: float,
) -> None:
    """Follow a run, and end with what it came to; exit with 1 if it did not go well."""
    from pipelines.server.follow import follow

    outcome = follow(client, run, package, click.echo, timeout_seconds=timeout_seconds, pending_seconds=pending_seconds)
    click.echo(_where(client, run, outcome))
    if not outcome.is_well:
        click.echo(f"error: run {run.display_name}: {outcome.text}", err=True)
        ctx.exit(1)
    click.echo(f"run {run.display_name}: {outcome.text}")


def _where(client: Client, run: Any, outcome: Outcome | None) -> str:
    """Where to read on."""
    what = "report (in step decide)" if outcome and outcome.is_decided else "page"
    return f"{what}: {client.page(f'runs/details/{run.run_id}')}"


@click.command()
@click.argument("given", metavar="[RUN]", required=False)
@click.option("-e", "--experiment-name", "experiment", help="Without RUN: only runs of this experiment.")
@click.option("--count", type=click.IntRange(1, 100), default=10, show_default=True, help="Without RUN: how many.")
@WAIT
@TIMEOUT
@PATIENCE
@on_server
@click.pass_context
def status(
    ctx: click.Context,
    /,
    server: Server,
    given: str | None,
    experiment: str | None,
    count: int,
    wait: bool,
    timeout_seconds: int | None,
    pending_seconds: int,
) -> None:
    """Show how far a run is, by its id or name, or the newest runs.

    Exit codes: 0 shown; with --wait those of `submit --wait`.
    """
    _check_waiting(wait, timeout_seconds)
    if wait and not given:
        raise click.UsageError("--wait wants to know which RUN")
    from pipelines.server.runs import find_run, package_of

    with server() as client:
        if given is None:
            _show_newest(client, experiment, count)
            return
        run = find_run(client, given)
        package = package_of(client, run)
        if wait:
            _wait(ctx, client, run, package, timeout_seconds, pending_seconds)
            return
        _show(client, run, package)


def _show_newest(client: Client, experiment: str | None, count: int) -> None:
    from drtune.files.progress import spell
    from pipelines.server.runs import newest_runs, seconds_of, state_of

    runs = newest_runs(client, experiment, count)
    for run in runs:
        seconds = seconds_of(run)
        duration = spell(seconds) if seconds is not None else ""
        state = state_of(run)
        click.echo(f"{run.created_at:%Y-%m-%d %H:%M}  {state:<9}  {duration:<12}  {run.run_id}  {run.display_name}")
    if not runs:
        click.echo("no runs")


def _show(client: Client, run: Any, package: Package) -> None:
    from pipelines.server.logs import words_for
    from pipelines.server.outcome import outcome_of
    from pipelines.server.runs import ENDED, state_of, steps_of

    click.echo(f"run {run.display_name}: {state_of(run)}, {run.run_id}")
    steps = steps_of(run, package)
    words = words_for(client, run, package, [step.key for step in steps if step.state == "PENDING"])
    for step in steps:
        click.echo(f"  {step}{f': {words[step.key]}' if step.key in words else ''}")
    outcome = outcome_of(client, run, package, steps) if run.state in ENDED else None
    click.echo(_where(client, run, outcome))
    if outcome:
        click.echo(f"{'' if outcome.is_well else 'error: '}{outcome.text}")


@click.command()
@click.argument("given", metavar="RUN")
@click.argument("step", required=False)
@on_server
def logs(server: Server, given: str, step: str | None) -> None:
    """Show what a run's steps wrote, or one of them.

    RUN is an id or a name. It is the log of the last try: of the pod while that is there, and later what Kubeflow kept.
    """
    from drtune.errors import UserError
    from pipelines.server.logs import step_log
    from pipelines.server.runs import NOT_RUN, find_run, package_of, steps_of

    with server() as client:
        run = find_run(client, given)
        package = package_of(client, run)
        reached = [one for one in steps_of(run, package) if one.state not in (NOT_RUN, "SKIPPED")]
        chosen = [one for one in reached if step in (None, one.name)]
        if not chosen:
            names = ", ".join(one.name for one in reached) or "none so far"
            raise UserError(f"step {step or 'of any name'}: not reached by run {run.display_name}; reached: {names}")
        for one in chosen:
            click.echo(f"== {one}")
            try:
                click.echo(step_log(client, run, package, one.key).rstrip("\n"))
            except UserError as error:
                if step:
                    raise
                click.echo(f"({error})")


@click.command()
@click.argument("given", metavar="RUN")
@on_server
def cancel(server: Server, given: str) -> None:
    """End a run, by its id or name; its training job ends with it.

    After a `retry` the job ends by its own `alone_seconds`.
    """
    from pipelines.server.runs import cancel

    with server() as client:
        run = cancel(client, given)
        click.echo(f"run {run.display_name}: told to end; `drtune-pipeline status {run.run_id}` shows when it has")


@click.command()
@click.argument("given", metavar="RUN")
@WAIT
@TIMEOUT
@PATIENCE
@on_server
@click.pass_context
def retry(
    ctx: click.Context,
    /,
    server: Server,
    given: str,
    wait: bool,
    timeout_seconds: int | None,
    pending_seconds: int,
) -> None:
    """Go on with a run that failed or was cancelled. RUN is its id or name; it goes on with the same parameters
    where it ended.

    Steps that went well are not done again, and a training job goes on from its newest checkpoint. What is to be
    changed in its parameters wants another run.

    Exit codes: 0 it goes on; with --wait those of `submit --wait`.
    """
    _check_waiting(wait, timeout_seconds)
    from pipelines.server.runs import package_of, retry

    with server() as client:
        run = retry(client, given)
        click.echo(f"run {run.display_name}: goes on, {run.run_id}")
        click.echo(client.page(f"runs/details/{run.run_id}"))
        if wait:
            _wait(ctx, client, run, package_of(client, run), timeout_seconds, pending_seconds)


COMMANDS = (doctor, upload, submit, status, logs, cancel, retry, schedule)

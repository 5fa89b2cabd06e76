"""The commands of `drtune-pipeline` that talk to a Kubeflow Pipelines server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtune.cli.console import PATH
from pipelines.cli.options import (
    ARGUMENTS,
    EXPERIMENT,
    FOLDER,
    NO_CACHE,
    PACKAGE,
    SERVICE_ACCOUNT,
    VERSION,
    Server,
    on_server,
    prepared,
)
from pipelines.cli.schedule import schedule

if TYPE_CHECKING:
    from pipelines.server.client import Client
    from pipelines.server.package import Package

WAIT = click.option("-w", "--wait", is_flag=True, help="Follow the run to its end.")
TIMEOUT = click.option(
    "-t",
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="With --wait: stop waiting after this time; the run goes on.",
)


@click.command()
@click.argument("packages", metavar="[FILE]...", type=PATH, nargs=-1)
@click.option("--version", help="Name of the version.  [default: the commit of the code]")
@on_server
def upload(server: Server, packages: tuple[Path, ...], version: str | None) -> None:
    """Put the compiled pipelines on the server, each as a version named after the code's commit.

    FILE is pipelines/*.yaml of this installation unless given. A version that is there with the same content is left
    alone, so that the command can be repeated.
    """
    from pipelines.server.package import Package
    from pipelines.server.uploads import revision, upload

    read = [Package.read(path) for path in packages or sorted(FOLDER.glob("*.yaml"))]
    name = version or revision()
    with server() as client:
        for package in read:
            (pipeline_id, version_id), is_new = upload(client, package, name)
            click.echo(
                f"pipeline {package.name} version {name}: {'uploaded' if is_new else 'there already'}, {version_id}"
            )
            click.echo(client.page(f"pipelines/details/{pipeline_id}/version/{version_id}"))


@click.command()
@PACKAGE
@VERSION
@EXPERIMENT
@click.option("-r", "--run-name", "name", help="Name of the run.  [default: that of the pipeline, and the time]")
@NO_CACHE
@SERVICE_ACCOUNT
@WAIT
@TIMEOUT
@ARGUMENTS
@on_server
@click.pass_context
def submit(
    ctx: click.Context, /, server: Server, name: str | None, wait: bool, timeout_seconds: int | None, **job: Any
) -> None:
    """Start one run with these parameters of the pipeline.

    KEY=VALUE sets a parameter; a list is JSON, as in overrides='["steps=20", "batch_size=4"]'. Parameters and
    configuration are checked before anything is sent.

    Exit codes: 0 started, with --wait succeeded; 1 with --wait: failed, cancelled, skipped or not over in time; 2
    something given cannot be used, or the server refuses it.
    """
    _check_waiting(wait, timeout_seconds)
    from pipelines.server.runs import submit

    with prepared(server, **job) as (client, wanted):
        name = name or f"{wanted.package.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        run = submit(client, wanted, name, click.echo)
        click.echo(f"run {name}: {run.run_id}")
        click.echo(client.page(f"runs/details/{run.run_id}"))
        if wait:
            _wait(ctx, client, run, wanted.package, timeout_seconds)


def _check_waiting(wait: bool, timeout_seconds: int | None) -> None:
    if timeout_seconds and not wait:
        raise click.UsageError("--timeout goes with --wait")


def _wait(ctx: click.Context, client: Client, run: Any, package: Package, timeout_seconds: float | None) -> None:
    """Follow a run; exit with 1 unless it succeeds."""
    from pipelines.server.follow import follow
    from pipelines.server.runs import spell

    outcome = follow(client, run, package, click.echo, timeout_seconds=timeout_seconds)
    if outcome.reason:
        click.echo(f"error: {outcome.reason}", err=True)
        ctx.exit(1)
    duration = f" after {spell(outcome.seconds)}" if outcome.seconds is not None else ""
    click.echo(f"run {run.display_name} succeeded{duration}")


@click.command()
@click.argument("given", metavar="[RUN]", required=False)
@click.option("-e", "--experiment-name", "experiment", help="Without RUN: only runs of this experiment.")
@click.option("--count", type=click.IntRange(1, 100), default=10, show_default=True, help="Without RUN: how many.")
@WAIT
@TIMEOUT
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
) -> None:
    """Show how far a run is, by its id or name, or the newest runs.

    Exit codes: 0 shown; with --wait those of `submit --wait`.
    """
    _check_waiting(wait, timeout_seconds)
    if wait and not given:
        raise click.UsageError("--wait wants to know which RUN")
    from pipelines.server.runs import find_run, newest_runs, package_of, seconds_of, spell, steps_of

    with server() as client:
        if given is None:
            runs = newest_runs(client, experiment, count)
            for run in runs:
                seconds = seconds_of(run)
                duration = spell(seconds) if seconds is not None else ""
                line = (
                    f"{run.created_at:%Y-%m-%d %H:%M}  {run.state:<9}  {duration:<12}  {run.run_id}  {run.display_name}"
                )
                click.echo(line)
            if not runs:
                click.echo("no runs")
            return
        run = find_run(client, given)
        package = package_of(client, run)
        if wait:
            _wait(ctx, client, run, package, timeout_seconds)
            return
        click.echo(f"run {run.display_name}: {run.state}, {run.run_id}")
        for step in steps_of(run, package):
            click.echo(f"  {step}")
        click.echo(client.page(f"runs/details/{run.run_id}"))


@click.command()
@click.argument("given", metavar="RUN")
@click.argument("step", required=False)
@on_server
def logs(server: Server, given: str, step: str | None) -> None:
    """Show what a run's steps wrote, or one of them.

    RUN is an id or a name. Kubeflow is asked first, which works for steps without retries; then Kubernetes, if there
    is a kubeconfig or a pod's service account.
    """
    from drtune.errors import UserError
    from pipelines.server.logs import step_log
    from pipelines.server.runs import find_run, package_of, steps_of

    with server() as client:
        run = find_run(client, given)
        reached = steps_of(run, package_of(client, run))
        chosen = [one for one in reached if one.name == step or (step is None and one.state != "SKIPPED")]
        if not chosen:
            names = ", ".join(one.name for one in reached) or "none so far"
            raise UserError(f"step {step or 'of any name'}: not reached by run {run.display_name}; reached: {names}")
        for one in chosen:
            click.echo(f"== {one}")
            try:
                click.echo(step_log(client, run, one.task).rstrip("\n"))
            except UserError as error:
                if step:
                    raise
                click.echo(f"({error})")


@click.command()
@click.argument("given", metavar="RUN")
@on_server
def cancel(server: Server, given: str) -> None:
    """End a run, by its id or name; its training job ends with it."""
    from pipelines.server.runs import cancel

    with server() as client:
        run = cancel(client, given)
        click.echo(f"run {run.display_name}: told to end; `drtune-pipeline status {run.run_id}` shows when it has")


COMMANDS = (upload, submit, status, logs, cancel, schedule)

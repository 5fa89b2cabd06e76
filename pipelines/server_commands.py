"""The commands of `drtune-pipeline` that talk to a Kubeflow Pipelines server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtune.console import PATH

if TYPE_CHECKING:
    from pipelines.server.client import Client
    from pipelines.server.package import Json, Package
    from pipelines.server.runs import Job

FOLDER = Path(__file__).parent

PACKAGE = click.option(
    "-f",
    "--package-file",
    "path",
    type=PATH,
    default=FOLDER / "tune.yaml",
    help="The compiled pipeline.  [default: tune.yaml of this installation]",
)
VERSION = click.option(
    "--version", help="Run this version of the pipeline, uploaded before, instead of the file's content."
)
EXPERIMENT = click.option(
    "-e",
    "--experiment-name",
    "experiment",
    default="drtune",
    show_default=True,
    help="Experiment of the run; it is made if it is not there.",
)
NO_CACHE = click.option("--no-cache", is_flag=True, help="Run every step anew, also where Kubeflow knows its result.")
SERVICE_ACCOUNT = click.option("--service-account", help="Kubernetes service account of the run.")
WAIT = click.option("-w", "--wait", is_flag=True, help="Follow the run to its end.")
TIMEOUT = click.option(
    "-t",
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="With --wait: stop waiting after this time; the run goes on.",
)
ARGUMENTS = click.argument("assignments", metavar="[KEY=VALUE]...", nargs=-1)


def on_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which kfp's own command line finds a server; the command gets it as `server`."""

    @wraps(command)
    def run(*args: Any, endpoint: str | None, namespace: str, token: str | None, **given: Any) -> None:
        def server() -> AbstractContextManager[Client]:
            from pipelines.server.client import connected

            return connected(endpoint, namespace, token)

        command(*args, server=server, **given)

    options = (
        click.option(
            "--existing-token",
            "token",
            envvar="KFP_EXISTING_TOKEN",
            help="Bearer token; better in the environment as KFP_EXISTING_TOKEN, since others see a command line.",
        ),
        click.option(
            "-n",
            "--namespace",
            envvar="KFP_NAMESPACE",
            default="kubeflow",
            show_default=True,
            help="Your namespace, on a server for many users; or KFP_NAMESPACE.",
        ),
        click.option(
            "--endpoint",
            envvar=["KF_PIPELINES_ENDPOINT", "KFP_ENDPOINT"],
            help="Address of Kubeflow Pipelines, such as http://localhost:8888; or KF_PIPELINES_ENDPOINT.",
        ),
    )
    for option in options:
        run = option(run)
    return run


Server = Callable[[], AbstractContextManager["Client"]]


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

    with _prepared(server, **job) as (client, wanted):
        name = name or f"{wanted.package.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        run = submit(client, wanted, name)
        click.echo(f"run {name}: {run.run_id}")
        click.echo(client.page(f"runs/details/{run.run_id}"))
        if wait:
            _wait(ctx, client, run, wanted.package, timeout_seconds)


@contextmanager
def _prepared(
    server: Server,
    path: Path,
    version: str | None,
    assignments: tuple[str, ...],
    experiment: str,
    no_cache: bool,
    service_account: str | None,
) -> Iterator[tuple[Client, Job]]:
    """Check everything that can be checked here before the server is asked for anything."""
    if version and no_cache:
        raise click.UsageError("--no-cache changes the pipeline, and so cannot go with a --version as it stands")
    from pipelines.server.package import Package
    from pipelines.server.runs import Job
    from pipelines.server.uploads import find_version

    package, uploaded = Package.read(path), None
    arguments = None if version else _checked(package, assignments)
    with server() as client:
        if version:
            uploaded, package = find_version(client, package.name, version)
            arguments = _checked(package, assignments)
        package = package.without_cache() if no_cache else package
        yield client, Job(package, arguments or {}, experiment, uploaded, service_account)


def _checked(package: Package, assignments: tuple[str, ...]) -> Json:
    from pipelines.server.package import check_config

    arguments = package.arguments(assignments)
    if unchecked := check_config(package, arguments):
        click.echo(f"({unchecked})")
    return arguments


def _check_waiting(wait: bool, timeout_seconds: int | None) -> None:
    if timeout_seconds and not wait:
        raise click.UsageError("--timeout goes with --wait")


def _wait(ctx: click.Context, client: Client, run: Any, package: Package, timeout_seconds: float | None) -> None:
    """Follow a run; exit with 1 unless it succeeds."""
    from pipelines.server.runs import follow, spell

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
            newest = newest_runs(client, experiment, count)
            for run in newest:
                duration = f"after {spell(seconds)}" if (seconds := seconds_of(run)) is not None else ""
                click.echo(
                    f"{run.created_at:%Y-%m-%d %H:%M}  {run.state:<9}  {run.run_id}  {run.display_name}  {duration}"
                )
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
        chosen = [one for one in reached if step in (None, one.name)]
        if not chosen:
            names = ", ".join(one.name for one in reached) or "none so far"
            raise UserError(f"step {step or 'of any name'}: not reached by run {run.display_name}; reached: {names}")
        for one in chosen:
            click.echo(f"== {one}")
            click.echo(step_log(client, run, one.task).rstrip("\n"))


@click.command()
@click.argument("given", metavar="RUN")
@on_server
def cancel(server: Server, given: str) -> None:
    """End a run, by its id or name; its training job ends with it."""
    from pipelines.server.runs import cancel

    with server() as client:
        run = cancel(client, given)
        click.echo(f"run {run.display_name}: told to end; `drtune-pipeline status {run.run_id}` shows when it has")


class _ByName(click.Group):
    """Takes `schedule NAME ...` for `schedule create NAME ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command in front unless there is one, or help is wanted."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ByName)
def schedule() -> None:
    """Let runs start by themselves: `schedule NAME --cron "0 3 * * 1"` makes or replaces one."""


@schedule.command("create")
@click.argument("name")
@click.option("--cron", required=True, metavar="EXPRESSION", help="When: five fields, or six with the seconds first.")
@PACKAGE
@VERSION
@EXPERIMENT
@NO_CACHE
@SERVICE_ACCOUNT
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="How many of its runs may run at once; others wait.",
)
@click.option("--catch-up", is_flag=True, help="After a pause start all runs that were missed, not only the newest.")
@ARGUMENTS
@on_server
def create_schedule(server: Server, name: str, cron: str, max_concurrency: int, catch_up: bool, **job: Any) -> None:
    """Make the schedule NAME, or replace it; `schedule NAME --cron ...` is the same.

    Kubeflow cannot change a schedule. The new one is made paused, the old one is deleted, then the new one is let go;
    so two never start runs at once. One that was paused stays paused.
    """
    from pipelines.server.schedules import Schedule, is_active, next_starts, replace, six_fields

    if name in schedule.commands:
        raise click.UsageError(f"`schedule {name}` is a command, and its options come after it")
    wanted = Schedule(name, six_fields(cron), max_concurrency, catch_up)
    click.echo(f"cron: {wanted.cron} (second minute hour day-of-month month day-of-week)")
    with _prepared(server, **job) as (client, what):
        made = replace(client, wanted, what, click.echo)
        click.echo(f"schedule {name}: {'active' if is_active(made) else 'paused'}, {made.recurring_run_id}")
        click.echo(client.page(f"recurringrun/details/{made.recurring_run_id}"))
    times = ", ".join(f"{start:%a %Y-%m-%d %H:%M}" for start in next_starts(wanted.cron, 3))
    click.echo(f"next, if the server's clock is UTC: {times}")


@schedule.command("list")
@on_server
def list_schedules(server: Server) -> None:
    """Show all schedules."""
    from pipelines.server.schedules import cron_of, every, is_active

    with server() as client:
        known = every(client)
        for one in known:
            state = "active" if is_active(one) else "paused"
            click.echo(f"{state}  {cron_of(one):<18}  {one.recurring_run_id}  {one.display_name}")
        if not known:
            click.echo("no schedules")


@schedule.command("pause")
@click.argument("name")
@on_server
def pause_schedule(server: Server, name: str) -> None:
    """Let a schedule start no more runs; those that run go on."""
    _each(server, name, lambda client: client.disable_recurring_run, "paused")


@schedule.command("resume")
@click.argument("name")
@on_server
def resume_schedule(server: Server, name: str) -> None:
    """Let a paused schedule start runs again."""
    _each(server, name, lambda client: client.enable_recurring_run, "active")


@schedule.command("delete")
@click.argument("name")
@on_server
def delete_schedule(server: Server, name: str) -> None:
    """Delete a schedule; its runs stay."""
    _each(server, name, lambda client: client.delete_recurring_run, "deleted")


def _each(server: Server, name: str, doing: Callable[[Client], Callable[[str], Any]], done: str) -> None:
    from pipelines.server.schedules import find

    with server() as client:
        for one in find(client, name):
            doing(client)(one.recurring_run_id)
            click.echo(f"schedule {name}: {done}, {one.recurring_run_id}")


COMMANDS = (upload, submit, status, logs, cancel, schedule)

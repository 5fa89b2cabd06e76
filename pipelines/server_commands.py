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
@click.option("-w", "--wait", is_flag=True, help="Follow the run to its end.")
@click.option(
    "-t",
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="With --wait: stop waiting after this time; the run goes on.",
)
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
    if timeout_seconds and not wait:
        raise click.UsageError("--timeout goes with --wait")
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


def _wait(ctx: click.Context, client: Client, run: Any, package: Package, timeout_seconds: float | None) -> None:
    """Follow a run; exit with 1 unless it succeeds."""
    from pipelines.server.runs import follow, spell

    outcome = follow(client, run, package, click.echo, timeout_seconds=timeout_seconds)
    if outcome.reason:
        click.echo(f"error: {outcome.reason}", err=True)
        ctx.exit(1)
    duration = f" after {spell(outcome.seconds)}" if outcome.seconds is not None else ""
    click.echo(f"run {run.display_name} succeeded{duration}")


COMMANDS = (upload, submit)

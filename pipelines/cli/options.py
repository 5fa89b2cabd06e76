"""What the commands that talk to a server share: options, and the job that they describe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtune.cli.console import PATH

if TYPE_CHECKING:
    from pipelines.server.client import Client
    from pipelines.server.package import Json, Package
    from pipelines.server.runs import Job, Version

FOLDER = Path(__file__).parents[1]
TUNE = FOLDER / "tune.yaml"

PACKAGE = click.option(
    "-f",
    "--package-file",
    "path",
    type=PATH,
    default=TUNE,
    help="The compiled pipeline.  [default: tune.yaml of this installation]",
)
VERSION = click.option(
    "--version", help="Run this version, uploaded before.  [default: that of the code, uploaded if it is not there]"
)
INLINE = click.option(
    "--inline", is_flag=True, help="Send the file along as it stands, without a version: for what is being worked on."
)
EXPERIMENT = click.option(
    "-e",
    "--experiment-name",
    "experiment",
    default="drtune",
    show_default=True,
    help="Experiment of the run; it is made if it is not there.",
)
SERVICE_ACCOUNT = click.option("--service-account", help="Kubernetes service account of the run.")
ARGUMENTS = click.argument("assignments", metavar="[KEY=VALUE]...", nargs=-1)


Server = Callable[[], AbstractContextManager["Client"]]
"""Connects when it is entered, so that a mistake is told before a server is asked for anything."""


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


TUNING = (
    click.option(
        "--prompts",
        help="Prompts file, here or on s3://, a data set of the hub (hf://datasets/OWNER/NAME), or lines of prompts.  "
        "[default: data/miniature.jsonl]",
    ),
    click.option("--data-revision", help="Commit, branch or tag whose version of the data is taken."),
    click.option(
        "--config",
        help="What differs from the defaults: YAML in a file, here or on s3://, or as text.  "
        "[default: configs/miniature.yaml]",
    ),
    click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change one key of the configuration. Repeatable.",
    ),
    click.option(
        "--reference",
        "references",
        metavar="NAME=PLACE",
        multiple=True,
        help="Pictures to compare with: a folder, .zip or .tar, here or on s3://, with a manifest.csv. Repeatable.",
    ),
    click.option(
        "--policy", help="YAML with what must be achieved to be published, as --config.  [default: configs/gate.yaml]"
    ),
)
"""What a run on this machine tunes with."""


def tuning(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a tuning on this machine."""
    for option in reversed(TUNING):
        command = option(command)
    return command


def arguments_of(pipeline: str, given: Mapping[str, Any], *, files: Collection[str]) -> Json:
    """The arguments of a run on this machine: what is given, and for what is None the defaults.

    A default among `files` that is not here is taken from the checkout that the code is of. The defaults are those of
    the compiled pipeline, since kfp takes seconds to be imported: what is wrong is told before.

    Raises:
        UserError: it is not there either.
    """
    from pipelines.server.package import Package

    stated = {name: value for name, value in given.items() if value is not None}
    defaults = Package.read(FOLDER / f"{pipeline}.yaml").defaults
    return defaults | {name: _at_hand(name, defaults[name]) for name in files if name not in stated} | stated


def _at_hand(name: str, default: str) -> str:
    """The path of a default's file, or of one that DVC would fetch."""
    from components.prepare_prompts.run import refuse_absent
    from drtune.errors import UserError

    for path in (default, str(FOLDER.parent / default)):
        with suppress(UserError):
            refuse_absent(path)
            return path
    raise UserError(f"{name} {default}: is in no checkout of drtune here; give --{name}")


@contextmanager
def prepared(
    server: Server,
    path: Path,
    version: str | None,
    inline: bool,
    assignments: tuple[str, ...],
    experiment: str,
    service_account: str | None,
) -> Iterator[tuple[Client, Job]]:
    """Check everything that can be checked here before the server is asked for anything."""
    if version and inline:
        raise click.UsageError("--inline sends the file, and so cannot go with a --version as it stands")
    from pipelines.server.package import Package

    package, uploaded = Package.read(path), None
    arguments = None if version else checked(package, assignments)
    from pipelines.server.runs import Job  # kfp takes seconds to be imported: after what can be told without it
    from pipelines.server.uploads import find_version

    with server() as client:
        client.refuse_an_old_server()
        if version:
            uploaded, package = find_version(client, package.name, version)
            arguments = checked(package, assignments)
        elif not inline:
            uploaded = _uploaded(client, package)
        yield client, Job(package, arguments or {}, experiment, uploaded, service_account)


def checked(package: Package, assignments: tuple[str, ...]) -> Json:
    """The arguments of a run, looked at as far as they are at hand; a line for each that is not."""
    from pipelines.server.package import check_files

    arguments = package.arguments(assignments)
    for unchecked in check_files(package, arguments):
        click.echo(f"({unchecked})")
    return arguments


def _uploaded(client: Client, package: Package) -> Version | None:
    """The package as the version of the code; None, and a word about it, when the code is none."""
    from drtune.errors import UserError
    from pipelines.server.uploads import upload, version_of_code

    try:
        name = version_of_code()
    except UserError as error:
        click.echo(f"({error}; sent along --inline)")
        return None
    there, is_new = upload(client, package, name)
    click.echo(f"pipeline {package.name} version {name}: {'uploaded' if is_new else 'there already'}")
    return there

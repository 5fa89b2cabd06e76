"""The commands `drtune publish`, `drtune push` and `drtune registry`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from drtune import publishing
from drtune.cli.console import AS_JSON, DECIDED, MODEL, OVERWRITE, PATH, REPORTED, echo_json
from drtune.errors import UserError

REGISTRY = click.option(
    "--registry",
    "uri",
    default=publishing.REGISTRY,
    show_default=True,
    help="A folder, file:// or s3://bucket/prefix.",
)


@click.command()
@MODEL
@click.option("--report", type=PATH, default=REPORTED, show_default=True, help="Its evaluation report.")
@click.option("--decision", type=PATH, default=DECIDED, show_default=True, help="The decision on the report.")
@click.option("--name", required=True, help="Name under which the model is published.")
@REGISTRY
def publish(model: Path, report: Path, decision: Path, name: str, uri: str) -> None:
    """Put a model into the registry and into production. It becomes a new version."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).publish(name, model, report, decision)
    click.echo(f"published: {entry.name} {entry.version} at {entry.uri}")


@click.command()
@click.argument("source", metavar="VERSION|RUN")
@click.argument("repository", metavar="USER/NAME")
@REGISTRY
def push(source: str, repository: str, uri: str) -> None:
    """Put a published version on the Hugging Face hub. Its card, pictures and weights go there in one commit.

    VERSION is NAME or NAME@v3 of the registry, by default the one in production; RUN is the folder of a run of
    `drtune-pipeline`. The token comes from HF_TOKEN, another hub than the usual from HF_ENDPOINT.
    """
    if not (token := os.environ.get("HF_TOKEN")):
        raise UserError(f"HF_TOKEN: not set; export a token of the hub that may write to {repository}")
    from huggingface_hub import HfApi

    from drtune.publishing.hub import push as push_version

    click.echo(f"pushed: {push_version(source, repository, HfApi(token=token), registry=uri)}")


@click.group()
def registry() -> None:
    """Look at published models, take one out, or go back to one."""


@registry.command("list")
@click.argument("name", required=False)
@REGISTRY
@AS_JSON
def list_versions(name: str | None, uri: str, in_json: bool) -> None:
    """List the published versions, of one NAME or of all."""
    from drtune.publishing.registry import Registry

    entries = Registry(uri).list(name)
    if in_json:
        echo_json([json.loads(entry.manifest()) for entry in entries])
        return
    for entry in entries:
        click.echo(f"{entry.name} {entry.version} {entry.uri}")
    if not entries:
        click.echo(f"registry {uri}: nothing is published here" + (f" as {name}" if name else ""), err=True)


@registry.command()
@click.argument("name")
@click.argument("version", default="production")
@REGISTRY
def show(name: str, version: str, uri: str) -> None:
    """Print the manifest of a VERSION of NAME. By default that of the one in production."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).show(name, version)
    click.echo(entry.manifest(), nl=False)


@registry.command()
@click.argument("name")
@click.argument("version", required=False)
@REGISTRY
def rollback(name: str, version: str | None, uri: str) -> None:
    """Put a VERSION of NAME back into production. By default the one before."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).rollback(name, version)
    click.echo(f"in production: {entry.name} {entry.version}")


@registry.command()
@click.argument("name")
@click.argument("version", default="production")
@click.option("--out", type=PATH, required=True, help="Folder for the model.")
@REGISTRY
@OVERWRITE
def pull(name: str, version: str, out: Path, uri: str, overwrite: bool) -> None:
    """Download a VERSION of NAME and verify every file. By default the one in production."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).pull(name, version, out, overwrite=overwrite)
    click.echo(f"pulled: {entry.name} {entry.version} to {out}")


@registry.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@REGISTRY
def clean(dry_run: bool, uri: str) -> None:
    """Remove what publications left that were killed.

    Files of a version are never touched, nor those that are younger than a day: their publication may be under way.
    """
    from drtune.publishing.registry import Registry

    orphans = Registry(uri).clean(dry_run=dry_run)
    for orphan in orphans:
        when = datetime.fromtimestamp(orphan.written, UTC)
        done = "would be removed" if dry_run else "removed"
        click.echo(f"{done}: {orphan.place} (files: {len(orphan.keys)}, the newest of {when:%Y-%m-%d %H:%M} UTC)")
    if not orphans:
        click.echo("nothing to remove")

"""The commands `drtune publish` and `drtune registry`."""

from __future__ import annotations

from pathlib import Path

import click

from drtune.cli.console import OVERWRITE, PATH

REGISTRY = click.option(
    "--registry",
    "uri",
    default="runs/registry",
    show_default=True,
    help="A folder, file:// or s3://bucket/prefix.",
)


@click.command()
@click.option("--model", type=PATH, default="runs/train", show_default=True, help="A tuned model.")
@click.option("--report", type=PATH, default="runs/report", show_default=True, help="Its evaluation report.")
@click.option("--decision", type=PATH, default="runs/decision", show_default=True, help="The decision on the report.")
@click.option("--name", required=True, help="Name under which the model is published.")
@REGISTRY
def publish(model: Path, report: Path, decision: Path, name: str, uri: str) -> None:
    """Put a model into the registry as a new version and make it the one in production."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).publish(name, model, report, decision)
    click.echo(f"published: {entry.name} {entry.version} at {entry.uri}")


@click.group()
def registry() -> None:
    """Look at published models, take one out, or go back to an earlier version."""


@registry.command("list")
@click.argument("name", required=False)
@REGISTRY
def list_versions(name: str | None, uri: str) -> None:
    """List the published versions, of one NAME or of all."""
    from drtune.publishing.registry import Registry

    for entry in Registry(uri).list(name):
        click.echo(f"{entry.name} {entry.version} {entry.uri}")


@registry.command()
@click.argument("name")
@click.argument("version", default="production")
@REGISTRY
def show(name: str, version: str, uri: str) -> None:
    """Print the manifest of a VERSION of NAME (default: the one in production)."""
    from drtune.publishing.registry import Registry

    click.echo(Registry(uri).show(name, version).manifest(), nl=False)


@registry.command()
@click.argument("name")
@click.argument("version", required=False)
@REGISTRY
def rollback(name: str, version: str | None, uri: str) -> None:
    """Put VERSION of NAME back into production (default: the one before)."""
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
    """Download a VERSION of NAME (default: the one in production) and verify every file."""
    from drtune.publishing.registry import Registry

    entry = Registry(uri).pull(name, version, out, overwrite=overwrite)
    click.echo(f"pulled: {entry.name} {entry.version} to {out}")

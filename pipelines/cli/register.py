"""`drtune-pipeline register`: a published version in Kubeflow's model registry."""

from __future__ import annotations

import click

from drtune.publishing import REGISTRY


@click.command()
@click.argument("source", metavar="NAME[@VERSION]")
@click.option(
    "--registry",
    default=REGISTRY,
    show_default=True,
    help="Where it is published: a folder, file:// or s3://bucket/prefix.",
)
@click.option("--to", "address", required=True, metavar="ADDRESS", help="Of Kubeflow's model registry.")
def register(source: str, registry: str, address: str) -> None:
    """Put a published version into Kubeflow's model registry. By default the one in production.

    A run does this itself where `model_registry` is given. What is registered already stays as it is, so that this can
    be repeated. KF_PIPELINES_SA_TOKEN_PATH names a file with a token, SSL_CERT_FILE one with certificates to trust.
    """
    from components.publish.run import register_published

    click.echo(register_published(registry, source, address))

"""The command `drtune-pipeline doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipelines.cli.options import ARGUMENTS, PACKAGE, SERVICE_ACCOUNT, Server, checked, on_server


@click.command()
@PACKAGE
@SERVICE_ACCOUNT
@ARGUMENTS
@on_server
@click.pass_context
def doctor(
    ctx: click.Context, /, server: Server, path: Path, service_account: str | None, assignments: tuple[str, ...]
) -> None:
    """See whether a cluster is ready for a run with these parameters, as `submit` takes them.

    It looks at Kubeflow Pipelines, at S3 with the keys in the environment, and by the kubeconfig file at the namespace:
    rights, secrets, images, the training job as the cluster would take it, its queue, quotas and nodes. Each line
    begins with ok, with !! and says what to do, or with -- for what you may not look at.

    Exit codes: 0 nothing is wrong, 1 something is, 2 something given cannot be used, or there is no cluster.
    """
    from drtune.errors import UserError
    from pipelines.server.package import Package

    package = Package.read(path)
    values = package.values(checked(package, assignments))
    from components.train.cluster import Cluster, connect
    from components.train.spec import load_spec
    from pipelines.server.doctor import PATIENCE_SECONDS, examine

    spec = load_spec(values["cluster"], values["cluster_overrides"]) if values.get("cluster") else None
    try:
        cluster = Cluster(connect(), ctx.params["namespace"], patience_seconds=PATIENCE_SECONDS)
    except UserError:
        if not ctx.params["endpoint"]:
            raise UserError(
                "cluster: there is none to look at; set KUBECONFIG, and KF_PIPELINES_ENDPOINT after "
                "`kubectl port-forward -n kubeflow svc/ml-pipeline 8888`"
            ) from None
        cluster = None
    marks = []
    for finding in examine(server, cluster, package, values, spec, service_account, os.environ):
        click.echo(finding)
        marks.append(finding.mark)
    if "!!" in marks:
        ctx.exit(1)

"""The command `drtune-pipeline doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.options import ARGUMENTS, PACKAGE, SERVICE_ACCOUNT, Server, checked, on_server

if TYPE_CHECKING:
    from components.train.spec import JobSpec
    from pipelines.server.client import Client
    from pipelines.server.package import Json
    from pipelines.server.runs import Job


@click.command()
@PACKAGE
@SERVICE_ACCOUNT
@ARGUMENTS
@on_server
@click.pass_context
def doctor(
    ctx: click.Context, /, server: Server, path: Path, service_account: str | None, assignments: tuple[str, ...]
) -> None:
    """See whether a cluster is ready for a run. The parameters are those that `submit` takes.

    It looks at Kubeflow Pipelines, at S3 with the keys in the environment, and by the kubeconfig file at the namespace:
    rights, secrets, images, the training job as the cluster would take it, its queue, quotas and nodes. Each line
    begins with ok, with !! and says what to do, or with -- for what was not looked at, and why.

    Exit codes: 0 nothing is wrong, 1 something is, 2 something given cannot be used, or there is no cluster.
    """
    from drtune.errors import UserError
    from pipelines.server.package import Package

    package = Package.read(path)
    values = package.values(checked(package, assignments))
    from components.train.cluster import Cluster, NoClusterError, connect
    from pipelines.server.doctor import PATIENCE_SECONDS, Finding, examine

    spec = _spec_at_hand(values)
    try:
        cluster = Cluster(connect(), ctx.params["namespace"], patience_seconds=PATIENCE_SECONDS)
    except NoClusterError:
        if not ctx.params["endpoint"]:
            raise UserError(
                "cluster: there is none to look at; set KUBECONFIG, and KF_PIPELINES_ENDPOINT after "
                "`kubectl port-forward -n kubeflow svc/ml-pipeline 8888`"
            ) from None
        cluster = None
    if (place := values.get("cluster")) and not spec:
        click.echo(Finding("--", f"not looked at: the training job, since {place} is not here"))
    marks = []
    for finding in examine(server, cluster, package, values, spec, service_account, os.environ):
        click.echo(finding)
        marks.append(finding.mark)
    if "!!" in marks:
        ctx.exit(1)


def _spec_at_hand(values: Json) -> JobSpec | None:
    """The training job of a run; None: it has none, or only the run itself can read the file."""
    from components.checks import is_at_hand
    from components.train.spec import load_spec

    place = values.get("cluster")
    return load_spec(place, values["cluster_overrides"]) if place and is_at_hand(place, elsewhere=True) else None


def refuse_unready(client: Client, job: Job, namespace: str) -> None:
    """Look in short at the cluster that a kubeconfig file leads to, and tell what would stop the run there.

    Raises:
        UserError: something would.
    """
    from components.train.cluster import Cluster, NoClusterError, connect
    from drtune.errors import UserError
    from pipelines.server.doctor import PATIENCE_SECONDS, Wanted, lacking, usual_account

    values = job.package.values(job.arguments)
    try:
        cluster = Cluster(connect(), namespace, patience_seconds=PATIENCE_SECONDS)
    except NoClusterError:
        return  # many who may start runs have no business with the cluster itself
    except UserError as error:
        click.echo(f"(not looked at: {error})")
        return
    spec = _spec_at_hand(values)
    account = job.service_account or usual_account(many_users=bool(client.get_kfp_healthz().multi_user))
    count = 0
    try:
        for finding in lacking(Wanted(cluster, job.package, values, spec, account)):
            click.echo(finding)
            count += 1
    except UserError as error:
        click.echo(f"(not looked at: {error})")
    if count:
        raise UserError(
            f"{cluster.host}: lacks what is marked with !!, and the run is not started; mend it, have KUBECONFIG lead "
            "to the cluster of the run, or leave out --wait, without which nobody looks"
        )

"""Pipelines on the server: each upload is a version, named after the code that it was compiled from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import kfp_server_api

from drtune.errors import UserError
from drtune.files.provenance import code_revision, git
from pipelines.server.client import Client, everything, named, quietly
from pipelines.server.package import Package
from pipelines.server.runs import Version


class Uploaded(NamedTuple):
    """A version on the server, and whether it is there since now."""

    version: Version
    is_new: bool


def upload(client: Client, package: Package, version_name: str) -> Uploaded:
    """Make the package a version of its pipeline, which is made too if it is not there.

    Raises:
        UserError: the version is there already with another content.
    """
    pipeline_id = (_find(client, package.name) or _make(client, package.name)).pipeline_id
    there = version_named(client, pipeline_id, version_name)
    if there is None:
        with package.on_disk() as path, quietly():
            made = client.upload_pipeline_version(str(path), version_name, pipeline_id=pipeline_id)
        return Uploaded(Version(pipeline_id, made.pipeline_version_id), is_new=True)
    if not (there.pipeline_spec and package.same_as(Package.of_server(there.pipeline_spec))):
        raise UserError(
            f"version {version_name} of pipeline {package.name}: is there already with another content; versions do "
            "not change: commit what you changed, give another --version, or submit it --inline"
        )
    return Uploaded(Version(pipeline_id, there.pipeline_version_id), is_new=False)


def find_version(client: Client, pipeline_name: str, version_name: str) -> tuple[Version, Package]:
    """A version that was uploaded before, and what it is.

    Raises:
        UserError: there is no such pipeline or version.
    """
    pipeline = _find(client, pipeline_name)
    if pipeline is None:
        raise UserError(f"pipeline {pipeline_name}: not on the server; `drtune-pipeline upload` puts it there")
    there = version_named(client, pipeline.pipeline_id, version_name)
    if there is None:
        raise UserError(
            f"version {version_name} of pipeline {pipeline_name}: not on the server; `drtune-pipeline upload "
            f"--version {version_name}` makes it"
        )
    whole = client.get_pipeline_version(there.pipeline_id, there.pipeline_version_id).pipeline_spec
    return Version(there.pipeline_id, there.pipeline_version_id), Package.of_server(whole)


def version_of_code() -> str:
    """The name of the version that this code is: by package, day and commit, such as 0.1.0-20261128-2e3681f.

    Raises:
        UserError: the commit is not known, or files differ from it.
    """
    revision = code_revision()
    if revision is None:
        raise UserError("version: the code's commit is not known here; give --version, or set DRTUNE_CODE_REVISION")
    if revision.endswith("-dirty"):
        raise UserError(f"version: files differ from commit {revision[:7]}; commit them, or give --version")
    return "-".join(filter(None, [version("drtune"), _day(revision), revision[:7]]))


def version_named(client: Client, pipeline_id: str, version_name: str) -> Any:
    """The version of that name; None when there is none."""
    versions = everything(
        client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id, filter=named(version_name)
    )
    return next((version for version in versions if version.display_name == version_name), None)


def _make(client: Client, name: str) -> Any:
    """A pipeline without a version: uploading one at once would name its first version after it."""
    body = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=client.namespace)
    return client.pipelines.pipeline_service_create_pipeline(body)


def _find(client: Client, name: str) -> Any:
    """The pipeline of that name, one's own before one that all share; None when there is none."""
    for namespace in dict.fromkeys([client.namespace, None]):
        found = client.list_pipelines(filter=named(name), namespace=namespace).pipelines
        if found:
            return found[0]
    return None


def _day(revision: str) -> str:
    """When the commit was made; empty where there is no git folder that has it."""
    there = Path(__file__).parent
    return git(there, "show", "--no-patch", "--format=%cd", "--date=format:%Y%m%d", f"{revision}^{{commit}}") or ""

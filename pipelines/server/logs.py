"""What a step wrote, and what Argo says of its pod: both asked of Kubeflow, by the names that Argo gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count, takewhile
from typing import Any

import kfp_server_api
import urllib3

from drtune.errors import UserError
from pipelines.server.client import Client
from pipelines.server.package import Package
from pipelines.server.runs import DRIVER

TEMPLATES = ("retry-system-container-impl", "system-container-impl")
"""Of the pod of a step that may be retried, as all of ours, and of one that may not."""
DRIVER_TEMPLATE = "system-container-driver"


def step_log(client: Client, run: Any, package: Package, key: str) -> str:
    """What a step has written, in its last try: of its pod, or what Argo kept of it.

    Raises:
        UserError: there is neither.
    """
    log = _log_of(client, run, (*package.places[key], "executor"), TEMPLATES)
    if log is None:
        page = client.page(f"runs/details/{run.run_id}")
        raise UserError(
            f"log of step {key}: its pod is not there, and Argo kept nothing of it; its artifact executor-logs is at "
            f"{page}"
        )
    return log


def driver_log(client: Client, run: Any, package: Package, key: str) -> str | None:
    """What Kubeflow's driver wrote, which comes before a step's own pod; None when that is gone."""
    *above, _ = package.places[key]
    return _log_of(client, run, (*above, f"{key}{DRIVER}"), (DRIVER_TEMPLATE,))


def _log_of(client: Client, run: Any, place: Sequence[str], templates: Sequence[str]) -> str | None:
    if (node := _node_at(run, place)) is None:
        return None
    workflow, _, number = node.rpartition("-")
    for template in templates:
        log = client.read_log(run.run_id, f"{workflow}-{template}-{number}")
        if log is not None:
            return log
    return client.read_archived_log(run.run_id, node)


def _node_at(run: Any, place: Sequence[str]) -> str | None:
    """The id of the node of a pod, in its last try; None before there is one.

    The server tells of each node the ids of those below it, and not its own: it follows from the name. Whether Argo has
    tries around a node depends on the settings of the cluster.
    """
    details = (run.run_details and run.run_details.task_details) or []
    known = {child.pod_name for task in details for child in task.child_tasks or []}
    if not known:
        return None
    name = workflow = min(known).rpartition("-")[0]
    for part in ("", *place):
        name = f"{name}.{part}" if part else name
        tries = (f"{name}({number})" for number in count())
        *_, name = name, *takewhile(lambda tried: _node_id(workflow, tried) in known, tries)
    found = _node_id(workflow, name)
    return found if found in known else None


def words_for(client: Client, run: Any, package: Package, keys: list[str]) -> Mapping[str, str]:
    """What Argo says of the pods of these steps, by their keys; nothing from a server that does not tell."""
    if not keys:
        return {}
    said: dict[str, str] = {}
    with suppress(kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
        said = client.words_of_argo(run.run_id)
    nodes = {key: _node_at(run, (*package.places[key], "executor")) for key in keys}
    return {key: said[node] for key, node in nodes.items() if node in said}


def _node_id(workflow: str, name: str) -> str:
    """As Argo computes it: the name's FNV-1a of 32 bits."""
    number = 2166136261
    for byte in name.encode():
        number = (number ^ byte) * 16777619 % 2**32
    return f"{workflow}-{number}"

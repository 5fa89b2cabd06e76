"""What a step wrote, and what Argo says of its pod: both asked of Kubeflow, by the nodes of Argo's workflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import kfp_server_api
import urllib3

from drtune.errors import UserError
from pipelines.server.client import Client
from pipelines.server.package import Package
from pipelines.server.runs import DRIVER

_TRY = re.compile(r"\((\d+)\)")


class Pod(NamedTuple):
    """The pod of a step or of its driver, in its last try."""

    node: str
    """The id of its node."""
    name: str
    words: str
    """What Argo says of it: why it is pending, or how it failed."""


def step_log(client: Client, run: Any, package: Package, key: str) -> str:
    """What a step has written, in its last try: of its pod, or what Argo kept of it.

    Raises:
        UserError: there is neither.
    """
    log = _log_of(client, run, (*package.places[key], "executor"))
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
    return _log_of(client, run, (*above, f"{key}{DRIVER}"))


def words_for(client: Client, run: Any, package: Package, keys: list[str]) -> Mapping[str, str]:
    """What Argo says of the pods of these steps, by their keys; nothing from a server that does not tell."""
    if not keys:
        return {}
    pods: Mapping[tuple[str, ...], Pod] = {}
    with suppress(kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
        pods = _pods(client, run)
    places = {key: (*package.places[key], "executor") for key in keys}
    return {key: pods[place].words for key, place in places.items() if place in pods}


def _log_of(client: Client, run: Any, place: tuple[str, ...]) -> str | None:
    if (pod := _pods(client, run).get(place)) is None:
        return None
    log = client.read_log(run.run_id, pod.name)
    return client.read_archived_log(run.run_id, pod.node) if log is None else log


def _pods(client: Client, run: Any) -> dict[tuple[str, ...], Pod]:
    """The pods of a run, by the names of the nodes from the root down to them.

    Whether a node is one of its tries, NAME(0), depends on the settings of the cluster. What template a pod is of is
    Kubeflow's affair, and its name has it.
    """
    found = {}
    nodes = [node for node in client.nodes_of_argo(run.run_id) if node["type"] == "Pod"]
    for node in sorted(nodes, key=lambda node: list(map(int, _TRY.findall(node["name"])))):
        workflow, _, number = node["id"].rpartition("-")
        _, *place = _TRY.sub("", node["name"].removeprefix(workflow)).split(".")
        name = f"{workflow}-{node['templateName']}-{number}"
        found[tuple(place)] = Pod(node["id"], name, node.get("message", ""))
    return found

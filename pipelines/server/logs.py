"""What a step wrote, and what Argo says of its pod: both asked of Kubeflow, by the names that Argo gives."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count, takewhile
from typing import Any

import kfp_server_api
import urllib3

from drtune.errors import UserError
from pipelines.local.display import TRACEBACK, Step, failure_of
from pipelines.server.client import Client
from pipelines.server.package import Package
from pipelines.server.runs import DRIVER

TEMPLATES = ("retry-system-container-impl", "system-container-impl")
"""Of the pod of a step that may be retried, as all of ours, and of one that may not."""
DRIVER_TEMPLATE = "system-container-driver"
_MISTAKE = re.compile(r"^error: (.*)$", re.MULTILINE)
_OF_THE_LAUNCHER = re.compile(r"[IWEF]\d{4} .*\.go:\d+\] ?")
"""What stands before each line of KFP's own launcher, which starts the step."""
_OF_ARGO = re.compile(r"Error: exit status \d+|.*\bargo\W{1,3}true\b.*")
"""A line of Argo's, which starts the launcher: emissary.go marks each by argo=true."""
_MOUNTED = re.compile(r"(?<![\w./:-])/(minio|s3|gcs)/(?=[\w.-]+/)")
"""Where a step sees its artifacts: gone with its pod, but the rest of the path is the artifact's address."""
_SCHEMES = {"minio": "minio://", "s3": "s3://", "gcs": "gs://"}


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


def why(log: str) -> str | None:
    """Why a step failed, by its log: its own `error: ...`, or its last exception, whichever came last."""
    mistakes = list(_MISTAKE.finditer(log))
    raised = log.rfind(TRACEBACK)
    if mistakes and mistakes[-1].start() > raised:
        return readable(mistakes[-1][1])
    if raised < 0:
        return None
    lines = [line for line in _of_the_step(log[raised:]) if not _OF_THE_LAUNCHER.match(line)]
    reason = failure_of(Step("", time.monotonic(), lines)).reason.splitlines()
    return readable(" ".join(dict.fromkeys([reason[0], reason[-1].strip()])))  # it may end with a program's last lines


def last_line(log: str) -> str | None:
    """The last line that says something."""
    lines = _of_the_step(log)
    return readable(_OF_THE_LAUNCHER.sub("", lines[-1])) if lines else None


def readable(text: str) -> str:
    """With the addresses of artifacts, in place of the paths at which their step saw them."""
    return _MOUNTED.sub(lambda found: _SCHEMES[found[1]], text)


def _of_the_step(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.strip() and not _OF_ARGO.fullmatch(line)]


def _node_id(workflow: str, name: str) -> str:
    """As Argo computes it: the name's FNV-1a of 32 bits."""
    number = 2166136261
    for byte in name.encode():
        number = (number ^ byte) * 16777619 % 2**32
    return f"{workflow}-{number}"

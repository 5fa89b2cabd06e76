"""What a step wrote: asked of Kubeflow first, and of Kubernetes where that can be reached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import kfp_server_api

from pipelines.display import TRACEBACK, Step, failure_of
from pipelines.server.client import Client

TEMPLATES = ("system-container-impl", "retry-system-container-impl")
"""Names of the template of a step's container in the workflow that Kubeflow makes, without and with retries."""


def step_log(client: Client, run: Any, task: Any) -> str | None:
    """What a step wrote; None when neither Kubeflow nor Kubernetes can say."""
    for pod in _pods(task):
        with suppress(kfp_server_api.ApiException):
            return client.read_log(run.run_id, pod)
    return None


def last_words(client: Client, run: Any, task: Any) -> str | None:
    """The message of the exception that ended a step, from its log."""
    log = step_log(client, run, task)
    if log is None or TRACEBACK not in log:
        return None
    lines = log[log.rindex(TRACEBACK) :].splitlines()
    return failure_of(Step(task.display_name, time.monotonic(), lines)).reason.splitlines()[0]


def _pods(task: Any) -> Iterator[str]:
    """Names that the pod of a step may have.

    The server tells of nodes, <workflow>-<number>; a pod's name has that of the template in between.
    """
    if task.pod_name:
        yield task.pod_name
    for child in task.child_tasks or []:
        workflow, _, number = (child.pod_name or "").rpartition("-")
        yield from (f"{workflow}-{template}-{number}" for template in TEMPLATES)

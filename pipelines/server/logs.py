"""What a step wrote: asked of Kubeflow first, and of Kubernetes where that can be reached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import kfp_server_api
import kubernetes
import urllib3

from drtune.errors import UserError
from pipelines.local.display import TRACEBACK, Step, failure_of
from pipelines.server.client import REQUEST_SECONDS, Client, quietly

TEMPLATE = "system-container-impl"
"""The template of a step's container in the workflow that Kubeflow makes; a step with retries has another one."""
NODE_NAME = "workflows.argoproj.io/node-name"
"""Annotation of a pod with its place in the workflow, such as tune-x7k2p.root.train.executor(0)."""


def step_log(client: Client, run: Any, task: Any) -> str:
    """What a step wrote, in its last attempt.

    Raises:
        UserError: neither Kubeflow nor Kubernetes can say.
    """
    for pod in _likely_pods(task):
        with suppress(kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
            return client.read_log(run.run_id, pod)
    return _log_in_kubernetes(client.namespace or "kubeflow", run.run_id, task.display_name)


def last_words(client: Client, run: Any, task: Any) -> str | None:
    """The message of the exception that ended a step, from its log; None when there is no log or no exception."""
    try:
        log = step_log(client, run, task)
    except UserError:
        return None
    if TRACEBACK not in log:
        return None
    lines = log[log.rindex(TRACEBACK) :].splitlines()
    return failure_of(Step(task.display_name, time.monotonic(), lines)).reason.splitlines()[0]


def _likely_pods(task: Any) -> Iterator[str]:
    """Names that the pod of a step without retries may have.

    The server tells of nodes, <workflow>-<number>; a pod's name has that of the template in between.
    """
    for child in task.child_tasks or []:
        workflow, _, number = (child.pod_name or "").rpartition("-")
        yield f"{workflow}-{TEMPLATE}-{number}"


def _log_in_kubernetes(namespace: str, run_id: str, key: str) -> str:
    missing = f"log of step {key}: Kubeflow does not give it, and Kubernetes"
    try:
        with quietly():
            kubernetes.config.load_config()
    except kubernetes.config.ConfigException:
        raise UserError(f"{missing} cannot be asked: set KUBECONFIG to a file that leads to the cluster") from None
    pods = kubernetes.client.CoreV1Api()
    try:
        found = pods.list_namespaced_pod(
            namespace, label_selector=f"pipeline/runid={run_id}", _request_timeout=REQUEST_SECONDS
        ).items
        mine = [pod for pod in found if _is_of(pod, key)]
        if not mine:
            raise UserError(f"{missing} has no pod of it in namespace {namespace}; it may have been cleaned up")
        newest = max(mine, key=lambda pod: pod.metadata.creation_timestamp)
        return str(
            pods.read_namespaced_pod_log(
                newest.metadata.name, namespace, container="main", _request_timeout=REQUEST_SECONDS
            )
        )
    except kubernetes.client.ApiException as error:
        raise UserError(f"{missing} refuses with {error.status} ({error.reason}) in namespace {namespace}") from None
    except urllib3.exceptions.HTTPError:
        raise UserError(f"{missing} does not answer: does your kubeconfig lead to the right cluster?") from None


def _is_of(pod: Any, key: str) -> bool:
    place: list[str] = (pod.metadata.annotations or {}).get(NODE_NAME, "").split(".")
    return place[-2:-1] == [key] and place[-1].startswith("executor")

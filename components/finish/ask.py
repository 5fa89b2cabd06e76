"""What Kubeflow and Kubernetes know of a run while its last step is under way.

Kubeflow gives that step one word (COMPLETE, FAILED or RUNNING, of its metadata store) and no reason. Its API knows the
states of all steps and whether the run was cancelled; the steps' pods know why one failed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, Request, build_opener

from kfp import dsl

from components.endings import was_cancelled
from components.train.cluster import connect, own_namespace, service_token
from components.train.environment import RUN_ID
from drtune.errors import UserError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CoreV1Api, V1Pod

STEPS = ("prepare-prompts", "train", "evaluate", "decide", "publish")
WORDS = {"COMPLETE": "SUCCEEDED", "SUCCEEDED": "SUCCEEDED", "FAILED": "FAILED"}
"""Of the metadata store, and of kfp where the pipeline runs on one machine. RUNNING says nothing: a run that is
refused, cancelled, out of time or lost has that word."""
PHASES = {"Succeeded": "SUCCEEDED", "Failed": "FAILED"}
NODE_NAME = "workflows.argoproj.io/node-name"
"""Annotation of a pod with its place in the workflow, such as tune-x7k2p(0).root(0).train(0).executor(0)."""
SECONDS = 20
LIMIT = (SECONDS, SECONDS)
"""To connect and to answer, as Kubernetes' client takes them: of one that is no whole number it makes none."""
LOOKS, PAUSE_SECONDS = 6, 5.0
"""The API is some seconds behind the workflow: it is asked again until it knows how the run ended."""
LINES = 200


@dataclass(frozen=True)
class Known:
    """How a run ended, as far as can be seen."""

    word: str
    """SUCCEEDED, FAILED or "": what the last step was told."""
    steps: Mapping[str, str] = field(default_factory=dict)
    """States by step: SUCCEEDED, FAILED or others of Kubeflow's; a step that was not reached is absent or ""."""
    cancelled: bool = False
    skipped: bool = False
    """The steps behind the decision were left out."""
    name: str = ""
    """Of the run, as people see it."""
    pods: Mapping[str, Pod] = field(default_factory=dict)
    """By step."""
    doubts: tuple[str, ...] = ()
    """What could not be asked."""

    @property
    def is_clear(self) -> bool:
        """Whether nothing more is to come."""
        over = "FAILED" in self.steps.values() or self.steps.get("publish") == "SUCCEEDED"
        return over or self.cancelled or self.skipped


@dataclass(frozen=True)
class Pod:
    """Why a step's pod ended, and the end of what it wrote."""

    phase: str
    reason: str = ""
    """Kubernetes' own, such as DeadlineExceeded, Evicted or OOMKilled."""
    log: str = ""


def look(
    status: dsl.PipelineTaskFinalStatus,
    environment: Mapping[str, str],
    client: ApiClient | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Known:
    """All that can be known of the run that this process belongs to; on one machine that is the word of kfp."""
    word, run = WORDS.get(status.state, ""), environment.get(RUN_ID)
    if not run:
        return Known(word)
    pods, doubts = _pods(run, client)
    for _ in range(LOOKS):
        try:
            known = _of_kubeflow(_ask_kubeflow(run, environment), word, pods, doubts)
        except (OSError, HTTPException, ValueError) as error:
            unasked = f"Kubeflow's API did not say how the run ended ({error})"
            phases = {step: PHASES.get(pod.phase, "RUNNING") for step, pod in pods.items()}
            return Known(word, phases, pods=pods, doubts=(*doubts, unasked))
        if known.is_clear:
            break
        pause(PAUSE_SECONDS)
    return known


def _ask_kubeflow(run: str, environment: Mapping[str, str]) -> dict[str, Any]:
    host = environment.get("ML_PIPELINE_SERVICE_HOST", "ml-pipeline.kubeflow")
    port = environment.get("ML_PIPELINE_SERVICE_PORT", "8888")
    headers = {"Authorization": f"Bearer {token}"} if (token := service_token(environment)) else {}
    request = Request(f"http://{host}:{port}/apis/v2beta1/runs/{run}", headers=headers)
    inside = build_opener(ProxyHandler({}))  # a proxy is for the world outside of the cluster
    with inside.open(request, timeout=SECONDS) as answer:
        told = json.load(answer)
    if not isinstance(told, dict):
        raise ValueError("what answers is not Kubeflow's API")
    return told


def _of_kubeflow(run: dict[str, Any], word: str, pods: Mapping[str, Pod], doubts: tuple[str, ...]) -> Known:
    """Its tasks are the workflow's nodes: each step twice (train, train(0)), drivers, and some without a name."""
    tasks = {
        task["display_name"]: task.get("state", "")
        for task in run.get("run_details", {}).get("task_details", [])
        if "display_name" in task
    }
    history = [entry.get("state", "") for entry in run.get("state_history", [])]
    return Known(
        word,
        steps={step: tasks[step] for step in STEPS if step in tasks},
        cancelled=was_cancelled([*history, run.get("state", "")]),
        skipped=any(name.startswith("condition-") and state == "SKIPPED" for name, state in tasks.items()),
        name=run.get("display_name", ""),
        pods=pods,
        doubts=doubts,
    )


def _pods(run: str, client: ApiClient | None) -> tuple[dict[str, Pod], tuple[str, ...]]:
    """The newest pod of each step, with the end of its log where it matters: of the decision, and of what failed."""
    from kubernetes.client import ApiException, CoreV1Api
    from urllib3.exceptions import HTTPError

    try:
        api, namespace = CoreV1Api(client or connect()), own_namespace()
        listed = api.list_namespaced_pod(namespace, label_selector=f"pipeline/runid={run}", _request_timeout=LIMIT)
        found: dict[str, Pod] = {}
        for pod in sorted(listed.items, key=lambda pod: pod.metadata.creation_timestamp):
            if step := _step_of(pod):
                matters = step in ("decide", "publish") or pod.status.phase == "Failed"
                found[step] = Pod(pod.status.phase, _reason(pod), _log(api, pod) if matters else "")
    except UserError as error:
        return {}, (str(error),)
    except ApiException as error:
        return {}, (f"the pods of the steps cannot be read ({error.status} {error.reason})",)
    except HTTPError as error:
        return {}, (f"Kubernetes does not answer ({type(error).__name__})",)
    return found, ()


def _log(api: CoreV1Api, pod: V1Pod) -> str:
    """The end of what a step wrote; nothing where its container never started, or is gone with its node."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    asked = {"container": "main", "tail_lines": LINES, "_request_timeout": LIMIT}
    try:  # as bytes: a program may write what is no text
        log = api.read_namespaced_pod_log(pod.metadata.name, pod.metadata.namespace, _preload_content=False, **asked)
        return bytes(log.data).decode(errors="replace")
    except (ApiException, HTTPError):
        return ""


def _step_of(pod: V1Pod) -> str | None:
    """The step whose work a pod does; None for a driver's, and for this one."""
    place = (pod.metadata.annotations or {}).get(NODE_NAME, "")
    names = [re.sub(r"\(\d+\)$", "", part) for part in place.split(".")]
    return names[-2] if names[-1] == "executor" and names[-2:-1] and names[-2] in STEPS else None


def _reason(pod: V1Pod) -> str:
    ended = [one.state.terminated for one in pod.status.container_statuses or [] if one.name == "main"]
    return pod.status.reason or next((one.reason or "" for one in ended if one), "")

"""What a run looks like as the server tells it: the nodes of Argo's workflow, as tasks and as they are.

As recorded in tests/recordings/kubeflow: each node stands there twice, since 2.17 wraps each in one for its tries
(`train`, `train(0)`); a task knows the ids of the nodes below it, not its own, and not why it failed; entries of the
cache are tasks without a name. An end to come is dated 1970 (kubeflow/pipelines 2.17.0, api_converter.go:1914).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

Json = dict[str, Any]
WORKFLOW = "tune-x7k2p"
INNER = {"finish": "exit-handler-1.onExit(0).finish(0)", "publish": "exit-handler-1(0).condition-2(0).publish(0)"}
BEGINNING = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
"""When everything here starts; each look at a run is a minute later."""


class Look(NamedTuple):
    """What one look at a run shows: its state, and the states of its steps.

    A step that is PENDING is one whose pod is: the step itself runs then, and its last try is PENDING, as recorded in
    the histories of the tries. None is the state of a step that will not run.
    """

    state: str
    steps: Mapping[str, str | None] = MappingProxyType({})


def node_id(name: str) -> str:
    """The id that Argo gives to a node, by its name.

    >>> node_id("tune-wm425(0).root(0).exit-handler-1(0).prepare-prompts(0).executor(0)")  # as recorded
    'tune-wm425-293302897'
    """
    number = 2166136261  # FNV-1a of 32 bits: argo-workflows v4.0.5, workflow/common/util.go and Workflow.NodeID
    for byte in name.encode():
        number = (number ^ byte) * 16777619 % 2**32
    return f"{name.split('(')[0]}-{number}"


def place_of(step: str) -> str:
    """The name of the node of a step."""
    return f"{WORKFLOW}(0).root(0).{INNER.get(step, f'exit-handler-1(0).{step}(0)')}"


def executor_of(step: str) -> str:
    """The id of the node of a step's pod."""
    return node_id(f"{place_of(step)}.executor(0)")


def pod_at(name: str, template: str) -> Json:
    """The node with that name, which is a pod, without what nobody reads of it."""
    return {"id": node_id(name), "name": name, "type": "Pod", "templateName": template}


def pod_name(node: Json) -> str:
    """The name of a node's pod: GeneratePodName in argo-workflows v4.0.5, workflow/util/pod_name.go:50."""
    workflow, _, number = node["id"].rpartition("-")
    return f"{workflow}-{node['templateName']}-{number}"


def template_of(step: str, whole: Json) -> str:
    """The name of the template of a step's pod, by what its package says of it.

    addContainerExecutorTemplate in kubeflow/pipelines 2.17.0, backend/src/v2/compiler/argocompiler/container.go:362.
    """
    spec, platform = whole["pipeline_spec"], whole["platform_spec"]
    dags = [part["dag"]["tasks"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]
    task = next(tasks[step] for tasks in dags if step in tasks)
    executor = spec["components"][task["componentRef"]["name"]]["executorLabel"]
    name = "retry-system-container-impl" if "retryPolicy" in task else "system-container-impl"
    said = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(executor, {})
    if "podMetadata" in said:
        counts = [len(said["podMetadata"].get(kind, {})) for kind in ("annotations", "labels")]
        name = "-".join(["metadata", *map(str, counts), name])
    return name


def stamp(minutes: float) -> str:
    return (BEGINNING + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def after_cancelling(state: str | None) -> str | None:
    """What was running has failed, and the rest is left out, as recorded."""
    return {"RUNNING": "FAILED", "PENDING": "FAILED"}.get(state, state) if state else None


def tasks_of(look: Look, minute: int) -> Iterable[Json]:
    """The workflow's nodes as the server tells them: each once for its tries and once for each try."""
    parts = (
        "",
        ".root(0)",
        ".root(0).exit-handler-1(0)",
        ".root(0).exit-handler-1.onExit(0)",
        ".root(0).exit-handler-1(0).condition-2(0)",
    )
    above = [node_id(f"{WORKFLOW}(0){part}") for part in parts]
    for name in (WORKFLOW, "root"):
        yield from _twice(name, look.state, above, 0, minute)
    yield from _twice("root-driver", "SUCCEEDED", [], 0, minute)
    for number, (step, state) in enumerate(look.steps.items()):
        if step.endswith("-driver"):
            yield from _twice(
                step, state, [node_id(f"{WORKFLOW}(0).root(0).exit-handler-1(0).{step}(0)")], number, minute
            )
        elif state is None:
            yield _task(step, None, [], number, minute)
        else:
            running = "RUNNING" if state == "PENDING" else state
            place = place_of(step)
            yield from _twice(f"{step}-driver", "SUCCEEDED", [], number, minute)
            yield _task(step, running, [node_id(place)], number, minute)
            yield _task(f"{step}(0)", running, [node_id(f"{place}.executor")], number, minute)
            yield _task("executor", running, [executor_of(step)], number, minute)
            yield _task("executor(0)", state, [], number, minute)
            yield _cached(step, number, minute)


def nodes_of(look: Look, whole: Json) -> Iterable[Json]:
    """The workflow's nodes for pods of steps, and for the tries around them, as Argo has them."""
    for step, state in look.steps.items():
        if step.endswith("-driver"):
            yield pod_at(place_of(step), "system-container-driver")
        elif state is not None:
            pod = pod_at(f"{place_of(step)}.executor(0)", template_of(step, whole))
            around = pod["name"].removesuffix("(0)")
            yield {**pod, "id": node_id(around), "name": around, "type": "Retry"}
            yield pod


def _twice(name: str, state: str | None, children: list[str], number: int, minute: int) -> Iterable[Json]:
    yield _task(name, state, children, number, minute)
    yield _task(f"{name}(0)", state, children, number, minute)


def _task(name: str, state: str | None, children: list[str], number: int, minute: int) -> Json:
    ended = state not in ("PENDING", "RUNNING")
    task: Json = {
        "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {number}")),
        "display_name": name,
        "start_time": stamp(number / 1000),  # in their order, for durations in whole minutes
        "end_time": stamp(minute) if ended else "1970-01-01T00:00:00Z",
    }
    if state:  # without one the field is left out, as recorded
        task["state"] = state
    if children:
        task["child_tasks"] = [{"pod_name": child} for child in children]
    return task


def _cached(step: str, number: int, minute: int) -> Json:
    """An entry of the cache, which has neither name nor state, as recorded."""
    task = _task(step, None, [], number, minute)
    del task["display_name"]
    return {**task, "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"cache {step}")), "execution_id": "48"}

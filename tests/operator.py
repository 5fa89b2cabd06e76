"""The training operator as a test plays it: pods that start, write and end, and a job that says so.

What a job says is what the training operator 1.9.4 says in tests/recordings/kubeflow; `replay` plays one of those.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.cluster_api import ClusterApi, Log, now
from tests.cluster_schemas import Object

NAMESPACE = "default"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
TRAINJOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
RECORDINGS = Path(__file__).parent / "recordings" / "kubeflow"


class PlayedJob:
    """A job that a launcher has created; `says` and the pods are those of a PyTorchJob with a Master and Workers."""

    def __init__(self, api: ClusterApi, job: Object) -> None:
        self.api, self.name, self.uid = api, job["metadata"]["name"], job["metadata"]["uid"]
        self.jobs = JOBS if job["kind"] == "PyTorchJob" else TRAINJOBS

    @property
    def is_gone(self) -> bool:
        return (self.jobs, self.name) not in self.api.objects

    @property
    def is_ended(self) -> bool:
        """Whether the launcher has deleted it; in the foreground it is there for a while."""
        job = self.api.objects.get((self.jobs, self.name))
        return job is None or "deletionTimestamp" in job["metadata"]

    def says(self, condition: str, message: str = "", **status: Any) -> None:
        """Set a condition to True, as the operator's UpdateJobConditions does (pkg/util/status.go)."""
        job = self.api.objects[JOBS, self.name]
        instead = {"Running": "Restarting", "Restarting": "Running"}.get(condition)
        past = [entry for entry in job.get("status", {}).get("conditions", []) if entry["type"] != condition]
        past = [entry for entry in past if entry["type"] != instead]
        if condition in ("Succeeded", "Failed", "Suspended"):
            past = [{**entry, "status": "False"} if entry["type"] == "Running" else entry for entry in past]
        entry = {"type": condition, "status": "True", "reason": f"PyTorchJob{condition}", "message": message}
        entry |= {"lastUpdateTime": now(), "lastTransitionTime": now()}
        made = {"startTime": now(), "replicaStatuses": self._replicas(), "conditions": [*past, entry]}
        self.api.put(JOBS, {**job, "status": {**made, **status}})
        if condition in ("Succeeded", "Failed"):  # cleanPodPolicy Running
            for pod in self.api.of("pods"):
                name = pod["metadata"]["name"]
                self.api.close_log(name)
                if name.startswith(self.name) and pod["status"].get("phase") == "Running":
                    self.api.remove(PODS, name)

    def stops_saying(self, condition: str) -> None:
        """Set a condition to False."""
        job = self.api.objects[JOBS, self.name]
        entries = [
            {**entry, "status": "False"} if entry["type"] == condition else entry
            for entry in job["status"]["conditions"]
        ]
        self.api.put(JOBS, {**job, "status": {**job["status"], "conditions": entries}})

    def _replicas(self) -> Object:
        """How many pods of each role run; none has no entry, as in the recordings."""
        found: Object = {"Master": {}, "Worker": {}}
        for pod in self.api.of("pods"):
            labels = pod["metadata"]["labels"]
            if labels.get("training.kubeflow.org/job-name") == self.name and pod["status"].get("phase") == "Running":
                role = found[labels["training.kubeflow.org/replica-type"].capitalize()]
                role["active"] = role.get("active", 0) + 1
        return found

    def pod_name(self, node: int) -> str:
        return f"{self.name}-master-0" if node == 0 else f"{self.name}-worker-{node - 1}"

    def pod(self, node: int, **status: Any) -> str:
        """Give the pod of a node a status; the first time it is created."""
        role, index = ("master", 0) if node == 0 else ("worker", node - 1)
        name = self.pod_name(node)
        labels = {"training.kubeflow.org/job-name": self.name, "training.kubeflow.org/replica-type": role}
        labels["training.kubeflow.org/replica-index"] = str(index)
        pod = self.api.objects.get((PODS, name))
        metadata = pod["metadata"] if pod else {"name": name, "labels": labels, "ownerReferences": [{"uid": self.uid}]}
        self.api.put(PODS, {"metadata": dict(metadata), "status": status})
        return name

    def runs(self, node: int) -> str:
        return self.pod(node, phase="Running", containerStatuses=[{"name": "pytorch", "state": {"running": {}}}])

    def ends(self, node: int, exit_code: int, *lines: str, kept: str = "", **status: Any) -> None:
        """The node's container writes some last lines and ends."""
        name = self.runs(node)
        self.api.write(name, *lines)
        self.api.close_log(name)
        ended = {"exitCode": exit_code, "finishedAt": now(), "message": kept}
        phase = "Failed" if exit_code else "Succeeded"
        self.pod(node, phase=phase, containerStatuses=[{"name": "pytorch", "state": {"terminated": ended}}], **status)

    def is_restarted(self, node: int) -> None:
        """The pod of a node is deleted, and takes its log with it."""
        self.api.remove(PODS, self.pod_name(node))
        self.api.logs.pop(self.pod_name(node), None)


def replay(recording: str, job: PlayedJob, writes: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """Have happen to `job` and its pods what tests/recordings/kubeflow/RECORDING.jsonl says.

    A pod writes what the recorded status kept of its last lines, or else what `writes` has for the end of its name.
    All recorded deletions are in the foreground. Of one that the launcher deletes so, what follows there happens here
    too, the controller's answer with it; of one that it deletes otherwise, what a cluster's collector does.
    """
    api = job.api
    api.collects = False  # in a recording it has done its work
    try:
        _replay(recording, job, writes)
    finally:
        api.collects = True


def _replay(recording: str, job: PlayedJob, writes: Mapping[str, Sequence[str]]) -> None:
    api, opened, last, in_foreground = job.api, set[str](), "", False
    until(lambda: api.counted("GET", "watch=true") >= 2)
    for number, line in enumerate((RECORDINGS / f"{recording}.jsonl").read_text(encoding="utf-8").splitlines()):
        event = json.loads(line)
        item, kind = event["object"], event["type"]
        if "deletionTimestamp" in item.get("metadata", {}) and item["kind"] != "Pod":
            until(lambda: job.is_ended)
            in_foreground = in_foreground or not job.is_gone
        if job.is_gone and not in_foreground:
            return
        if item["kind"] not in ("Event", last):
            _until_heard(job)
            last = item["kind"]
        if item["kind"] == "Event":
            api.put(EVENTS, {"metadata": {"name": f"event-{number}"}, **item})
        elif item["kind"] == "Pod":
            metadata = item["metadata"]
            name, uid = metadata["name"], f"{metadata['name']}/{metadata['creationTimestamp']}"
            if kind == "DELETED":
                api.remove(PODS, name)
                api.logs.pop(name, None)
                continue
            api.put(PODS, {**item, "metadata": {**metadata, "uid": uid, "ownerReferences": [{"uid": job.uid}]}})
            state = (item["status"].get("containerStatuses") or [{}])[0].get("state", {})
            if "waiting" not in state and state and uid not in opened:
                opened.add(uid)
                _until_followed(job, name)
            if (ended := state.get("terminated")) and not api.logs.get(name, Log()).closed:
                kept = ended.get("message", "").splitlines()
                api.write(name, *kept, *(text for end, lines in writes.items() if name.endswith(end) for text in lines))
                api.close_log(name)
        elif kind == "DELETED":
            api.remove(job.jobs, job.name)
        else:
            with api.news:
                if found := api.objects.get((job.jobs, job.name)):
                    api.put(job.jobs, {**found, "status": item["status"]})


def _until_heard(job: PlayedJob) -> None:
    """Wait until the launcher knows what was said so far: two watches keep no order, and a cluster takes its time."""
    api, said = job.api, job.api.version
    until(lambda: job.is_ended or all(api.told.get(watched, 0) >= said for watched in (job.jobs, PODS)))
    time.sleep(0.05)  # what was sent has yet to be read


def _until_followed(job: PlayedJob, pod: str) -> None:
    """Wait until the launcher has asked for the log of `pod` once more, or has ended the job."""
    asked = job.api.counted("GET", f"/{pod}/log")
    until(lambda: job.is_ended or job.api.counted("GET", f"/{pod}/log") > asked)


class Played:
    """Runs `script(job)` in a thread of its own for each job that is created; what goes wrong there fails the test."""

    def __init__(self, api: ClusterApi, *scripts: Callable[[PlayedJob], None]) -> None:
        self.api, self.scripts = api, list(scripts)
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Played:
        self.thread.start()
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        self.thread.join(30)
        for error in self.errors:
            raise error
        assert kind is not None or not self.thread.is_alive(), "the script has not come to its end"

    def _run(self) -> None:
        known: set[str] = set()
        try:
            for script in self.scripts:
                job = PlayedJob(self.api, until(lambda: self._fresh(known))[0])
                known.add(job.uid)
                script(job)
        except BaseException as error:
            self.errors.append(error)

    def _fresh(self, known: set[str]) -> list[Object]:
        jobs = self.api.of("pytorchjobs") + self.api.of("trainjobs")
        return [job for job in jobs if job["metadata"]["uid"] not in known]


def until(found: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `found` returns once that is true."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if value := found():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"not in {seconds} s")

"""The training operator as a test plays it: pods that start, write and end, and a job that says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.cluster_api import ClusterApi, Object, now

NAMESPACE = "default"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"


class PlayedJob:
    """A PyTorchJob with a Master and Workers, one process each, that a launcher has created."""

    def __init__(self, api: ClusterApi, job: Object) -> None:
        self.api, self.name, self.uid = api, job["metadata"]["name"], job["metadata"]["uid"]

    def says(self, condition: str, message: str = "", **status: Any) -> None:
        job = self.api.objects[JOBS, self.name]
        entry = {"type": condition, "status": "True", "reason": f"PyTorchJob{condition}", "message": message}
        entry |= {"lastUpdateTime": now(), "lastTransitionTime": now()}
        self.api.put(JOBS, {**job, "status": {"startTime": now(), **status, "conditions": [entry]}})
        if condition in ("Succeeded", "Failed"):  # cleanPodPolicy Running
            for pod in self.api.of("pods"):
                name = pod["metadata"]["name"]
                self.api.close_log(name)
                if name.startswith(self.name) and pod["status"].get("phase") == "Running":
                    self.api.remove(PODS, name)

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
        return [job for job in self.api.of("pytorchjobs") if job["metadata"]["uid"] not in known]


def until(found: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `found` returns once that is true."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if value := found():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"not in {seconds} s")

"""A cluster that is ready for a run of configs/cluster.yaml and lacks nothing, until a test takes something away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from components.images import PLATFORM_IMAGE, TRAINER_IMAGE
from components.pods import S3_KEYS, S3_SECRET
from tests.cluster_api import ClusterApi, Fault
from tests.cluster_schemas import Object

NAMESPACE = "kubeflow"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
NODES = "/api/v1/nodes"
KUEUE = "kueue.x-k8s.io/v1beta2"
QUEUES = f"/apis/{KUEUE}/namespaces/{NAMESPACE}/localqueues"
RUNTIMES = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ABSENT = 404, {"kind": "Status", "code": 404, "message": "the server could not find the requested resource"}


class ReadyCluster(ClusterApi):
    """Adds what is there beside jobs and pods: nodes, a queue, a quota, secrets, and what accounts may do."""

    def __init__(self) -> None:
        super().__init__()
        self.has_kueue = True
        self.denied: set[tuple[str, str]] = set()
        """Verb and resource, with its part, that no service account may use."""
        self.asked_for: set[str] = set()
        """The users that were asked about."""
        for number in range(2):
            self.put(NODES, a_node(f"node-{number}"))
        self.put(RUNTIMES, {"metadata": {"name": "drtune"}})
        self.put(f"{CORE}/secrets", {"metadata": {"name": S3_SECRET}, "data": dict.fromkeys(S3_KEYS, "eA==")})
        self.put(f"{CORE}/secrets", {"metadata": {"name": "ghcr"}, "data": {".dockerconfigjson": "e30="}})
        self.put(f"{CORE}/persistentvolumeclaims", {"metadata": {"name": "drtune-models"}})
        self.put(QUEUES, a_queue("True", "Can submit new workloads to clusterQueue"))
        hard = {"requests.nvidia.com/gpu": "18", "requests.cpu": "192", "limits.memory": "1536Gi", "pods": "100"}
        self.put(f"{CORE}/resourcequotas", a_quota(hard, {"requests.nvidia.com/gpu": "2", "pods": "3"}))

    def discovered(self, path: str) -> tuple[int, Object]:
        """What stands in no namespace."""
        collection, _, name = path.rpartition("/")
        if path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}
        if path == NODES:
            return 200, self.listed(NODES, {})
        if collection == RUNTIMES:
            item = self.objects.get((RUNTIMES, name))
            return (200, item) if item else ABSENT
        if path == "/apis/kueue.x-k8s.io" and self.has_kueue:
            # metav1.APIGroup, as apiserver/pkg/endpoints/discovery/group.go answers
            version = {"groupVersion": KUEUE, "version": "v1beta2"}
            return 200, {"kind": "APIGroup", "name": path[6:], "versions": [version], "preferredVersion": version}
        return super().discovered(path) if len(path.split("/")) == 4 else ABSENT

    def created(self, collection: str, item: Object, query: dict[str, str]) -> tuple[int, Object]:
        if collection != REVIEWS:
            return super().created(collection, item, query)
        # pkg/registry/authorization/subjectaccessreview/rest.go: what was asked, with `allowed`, which is always there
        kubernetes_validate.validate(item, "1.34", strict=True)
        self.asked_for.add(item["spec"]["user"])
        attributes = item["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, [attributes["resource"], attributes["subresource"]]))
        return 201, {**item, "status": {"allowed": (attributes["verb"], resource) not in self.denied}}

    def forbid(self, method: str, path: str, resource: str) -> None:
        """Whoever asks may not: apiserver/pkg/endpoints/handlers/responsewriters/errors.go."""
        verb = {"GET": "list", "POST": "create"}[method]
        said = f'{resource} is forbidden: User "someone" cannot {verb} resource "{resource}" in API group ""'
        self.faults.append(Fault(method, path, 403, times=99, message=said))

    def kubeconfig(self, folder: Path) -> str:
        """A file that leads to it."""
        path = folder / "kubeconfig"
        named: dict[str, Any] = {"clusters": [{"name": "here", "cluster": {"server": self.url}}]}
        named |= {"users": [{"name": "me", "user": {}}], "current-context": "here"}
        named |= {"contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}]}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **named}))
        return str(path)


def a_node(name: str, *, gpus: str = "8", taint: str = "nvidia.com/gpu") -> Object:
    """One with GPUs that is kept for them, and on which kind has loaded the images."""
    allocatable = {"cpu": "96", "memory": "1056263460Ki", "ephemeral-storage": "1000Gi", "nvidia.com/gpu": gpus}
    images = [{"names": [f"docker.io/library/{image}"]} for image in (PLATFORM_IMAGE, TRAINER_IMAGE)]
    taints = [{"key": taint, "value": "present", "effect": "NoSchedule"}]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": taints},
        "status": {"allocatable": allocatable, "images": images},
    }


def a_queue(active: str, message: str) -> Object:
    """Its condition is as kueue's pkg/controller/core/localqueue_controller.go writes it."""
    condition = {"type": "Active", "status": active, "message": message}
    return {"metadata": {"name": "nightly"}, "status": {"conditions": [condition]}}


def a_quota(hard: dict[str, str], used: dict[str, str], **scope: object) -> Object:
    """Its status has all of `hard`, and what is used of it."""
    used = {name: used.get(name, "0") for name in hard}
    return {"metadata": {"name": "drtune"}, "spec": {"hard": hard, **scope}, "status": {"hard": hard, "used": used}}

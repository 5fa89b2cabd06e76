"""The training job as the cluster's API knows it: the only file that knows PyTorchJob and TrainJob.

It builds their manifests from a JobSpec and reads what their status and their pods say. Nothing here is contacted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.images import USER_ID
from components.train.spec import JobSpec
from drtune.errors import UserError

Manifest = dict[str, Any]

WORK = "/work"
_PORT = 23456


@dataclass(frozen=True)
class Place:
    """Where jobs of one kind stand in the API, and how their pods are told apart."""

    kind: str
    group: str
    version: str
    plural: str
    container: str
    """The container that trains."""
    pod_label: str
    """The label of a pod that names its job."""


PYTORCHJOB = Place("PyTorchJob", "kubeflow.org", "v1", "pytorchjobs", "pytorch", "training.kubeflow.org/job-name")
TRAINJOB = Place("TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs", "node", "jobset.sigs.k8s.io/jobset-name")


@dataclass(frozen=True)
class Owner:
    """The pod that a job must not outlive."""

    name: str
    uid: str


@dataclass(frozen=True)
class JobStatus:
    """What a job says of itself."""

    phase: Literal["created", "suspended", "running", "restarting", "succeeded", "failed"]
    message: str


def job_name(run_id: str) -> str:
    """The name of the job of a run: the same for every try of its launcher.

    Raises:
        UserError: the run's id does not fit into a name.
    """
    name = f"drtune-{run_id.lower()}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])", name):  # 63 with the pods' endings, such as -worker-10
        raise UserError(f"run id {run_id!r}: wanted at most 45 letters, digits and '-', as Kubeflow gives it")
    return name


def place_of(spec: JobSpec) -> Place:
    """Where the job of `spec` stands in the API."""
    return PYTORCHJOB if spec.backend == "pytorchjob" else TRAINJOB


def to_job(spec: JobSpec, name: str, uri: str, owner: Owner | None = None) -> Manifest:
    """The manifest of the job that trains what was asked at `uri`, of the kind that `spec` wants."""
    build = to_pytorch_job if spec.backend == "pytorchjob" else to_train_job
    return build(spec, name, uri, owner)


def to_pytorch_job(spec: JobSpec, name: str, uri: str, owner: Owner | None = None) -> Manifest:
    """A PyTorchJob: Workers alone when elastic, since only they are counted then; else one Master and its Workers.

    Nodes are started again after a signal (exit codes above 127), and the job fails at once with any other exit code.
    """
    run_policy: Manifest = {
        "cleanPodPolicy": "Running",  # or Workers would hold their GPUs after the end
        "activeDeadlineSeconds": spec.run_timeout_seconds,
        "ttlSecondsAfterFinished": 86400,  # the launcher deletes it; this is for a launcher that was killed
    }
    if spec.gang or spec.priority_class:
        run_policy["schedulingPolicy"] = _present(
            minAvailable=(spec.elastic.min_nodes if spec.elastic else spec.nodes) if spec.gang else None,
            priorityClass=spec.priority_class,
        )
    if spec.elastic:
        counts = {"Worker": spec.nodes}
    else:
        counts = {"Master": 1} | ({"Worker": spec.nodes - 1} if spec.nodes > 1 else {})
    template = _pod_template(spec, uri)
    replicas = {
        role: {"replicas": count, "restartPolicy": "ExitCode", "template": template} for role, count in counts.items()
    }
    body: Manifest = {
        "runPolicy": run_policy,
        "nprocPerNode": str(spec.processes_per_node),
        "pytorchReplicaSpecs": replicas,
    }
    if spec.elastic:
        body["elasticPolicy"] = {
            "minReplicas": spec.elastic.min_nodes,
            "maxReplicas": spec.nodes,
            "maxRestarts": spec.elastic.max_restarts,
            "rdzvBackend": "c10d",
            "rdzvId": name,
        }
    return _manifest(PYTORCHJOB, spec, name, owner, body)


def to_train_job(spec: JobSpec, name: str, uri: str, owner: Owner | None = None) -> Manifest:
    """A TrainJob on a ClusterTrainingRuntime, which decides about restarts: it can be told no policy of its own."""
    container = _container(spec, uri)
    trainer = {key: container[key] for key in ("image", "command", "args", "env")}
    pod = _pod(spec)
    patch = _present(
        serviceAccountName=pod["serviceAccountName"],
        terminationGracePeriodSeconds=pod["terminationGracePeriodSeconds"],
        imagePullSecrets=pod.get("imagePullSecrets"),
        nodeSelector=pod.get("nodeSelector"),
        tolerations=pod.get("tolerations"),
        securityContext=pod["securityContext"],
        volumes=pod["volumes"],
        containers=[
            {
                "name": TRAINJOB.container,
                "securityContext": container["securityContext"],
                "volumeMounts": container["volumeMounts"],
            }
        ],
    )
    template = {"metadata": {"annotations": _ANNOTATIONS}, "spec": patch}
    jobs = [{"name": TRAINJOB.container, "template": {"spec": {"template": template}}}]
    body = {
        "runtimeRef": {"apiGroup": TRAINJOB.group, "kind": "ClusterTrainingRuntime", "name": spec.runtime},
        "activeDeadlineSeconds": spec.run_timeout_seconds,
        "trainer": {**trainer, "numNodes": spec.nodes, "resourcesPerNode": container["resources"]},
        "runtimePatches": [
            {
                "manager": "drtune/launcher",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
            }
        ],
    }
    return _manifest(TRAINJOB, spec, name, owner, body)


def owner_references(owner: Owner) -> list[Manifest]:
    """The reference by which the cluster deletes a job when its owner is deleted."""
    return [{"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}]


def status_of(job: Manifest) -> JobStatus:
    """What a job of either kind says of itself."""
    status = job.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", []) if entry["status"] == "True"}
    for condition, phase in _PHASES.items():
        if entry := conditions.get(condition):
            return JobStatus(phase, entry.get("message", ""))
    if any(jobs.get("active") for jobs in status.get("jobsStatus", [])):  # a TrainJob has no condition for it
        return JobStatus("running", "")
    return JobStatus("created", "")


_PHASES: Mapping[str, Literal["suspended", "running", "restarting", "succeeded", "failed"]] = {
    "Failed": "failed",  # first: a job that says both has not succeeded
    "Succeeded": "succeeded",
    "Complete": "succeeded",
    "Suspended": "suspended",
    "Restarting": "restarting",
    "Running": "running",
}


def node_of(pod: Manifest, spec: JobSpec) -> int:
    """Which node of the job a pod is, from 0."""
    labels = pod["metadata"].get("labels", {})
    if spec.backend == "trainjob":
        return int(labels.get("batch.kubernetes.io/job-completion-index", 0))
    index = int(labels.get("training.kubeflow.org/replica-index", 0))
    after_master = labels.get("training.kubeflow.org/replica-type") == "worker" and not spec.elastic
    return index + after_master


def ranks_of(node: int, spec: JobSpec) -> str:
    """The ranks of the processes of a node in words: `rank 3`, or `ranks 8-15`.

    The processes of an elastic job are ranked anew whenever nodes come or go, so there it is the node that is named.
    """
    first, count = node * spec.processes_per_node, spec.processes_per_node
    if spec.elastic:
        return f"node {node}"
    return f"rank {first}" if count == 1 else f"ranks {first}-{first + count - 1}"


# ----------------------------------------------------------------------------------------------------------------------

_ANNOTATIONS = {"sidecar.istio.io/inject": "false"}  # a sidecar would stand between the processes, and never end


def _manifest(place: Place, spec: JobSpec, name: str, owner: Owner | None, body: Manifest) -> Manifest:
    labels = {"app.kubernetes.io/name": "drtune", "app.kubernetes.io/component": "train"}
    if spec.queue:
        labels["kueue.x-k8s.io/queue-name"] = spec.queue
    return {
        "apiVersion": f"{place.group}/{place.version}",
        "kind": place.kind,
        "metadata": _present(name=name, labels=labels, ownerReferences=owner_references(owner) if owner else None),
        "spec": body,
    }


def _pod_template(spec: JobSpec, uri: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "drtune", "app.kubernetes.io/component": "train"}
    return {
        "metadata": {"labels": labels, "annotations": _ANNOTATIONS},
        "spec": {**_pod(spec), "automountServiceAccountToken": False, "containers": [_container(spec, uri)]},
    }


def _pod(spec: JobSpec) -> Manifest:
    volumes: list[Manifest] = [
        {"name": "work", "emptyDir": {"sizeLimit": spec.scratch}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shared_memory}},
    ]
    volumes += [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(spec.volumes)
    ]
    return _present(
        serviceAccountName=spec.service_account,
        imagePullSecrets=[{"name": secret} for secret in spec.image_pull_secrets],
        priorityClassName=spec.priority_class,
        nodeSelector=spec.node_selector,
        tolerations=[toleration.model_dump(exclude_none=True) for toleration in spec.tolerations],
        terminationGracePeriodSeconds=spec.grace_seconds,
        securityContext={
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,  # so that it may write to its volumes
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        volumes=volumes,
    )


def _container(spec: JobSpec, uri: str) -> Manifest:
    amounts = {"cpu": spec.cpu, "memory": spec.memory}
    if spec.gpus_per_node:
        amounts[spec.gpu_resource] = str(spec.gpus_per_node)
    mounts = [("work", WORK), ("tmp", "/tmp"), ("shared-memory", "/dev/shm")]
    mounts += [(f"volume-{number}", path) for number, path in enumerate(spec.volumes.values())]
    options = [f"--processes={spec.processes_per_node}", f"--grace-seconds={spec.grace_seconds}"]
    return {
        "name": PYTORCHJOB.container,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["python", "-m", "drtune.training.node"],
        "args": [uri, f"--work={WORK}", *options, f"--alone-seconds={spec.alone_seconds}"],
        "env": _environment(spec),
        "ports": [{"name": "pytorchjob-port", "containerPort": _PORT}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last lines, for a launcher that missed them
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts],
    }


def _environment(spec: JobSpec) -> list[Manifest]:
    # Libraries write below the home directory and into caches; nothing but WORK can be written to.
    values = {"HOME": WORK, "XDG_CACHE_HOME": f"{WORK}/.cache", "HF_HOME": f"{WORK}/huggingface"} | spec.environment
    plain = [{"name": key, "value": value} for key, value in values.items()]
    secret = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
        for name, keys in spec.secrets.items()
        for key in keys
    ]
    return plain + secret


def _present(**entries: Any) -> Manifest:
    """The entries that say something."""
    return {key: value for key, value in entries.items() if value not in (None, {}, [], ())}

"""The training job as the cluster's API knows it: the only file that knows PyTorchJob and TrainJob.

It builds their manifests from a JobSpec and reads what their status and their pods say. Nothing here is contacted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.train.environment import CERTIFICATES, TRUST
from components.train.spec import GRACE_SECONDS, JobSpec
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
    makers: tuple[str, ...]
    """What makes its pods, by what is appended to its name: their events say why there are none."""
    needed: str
    """The oldest version that knows what is asked of it."""

    @property
    def api(self) -> str:
        """Group and version, as in `apiVersion`."""
        return f"{self.group}/{self.version}"

    def pods_of(self, name: str) -> dict[str, str]:
        """The query for the pods of a job."""
        return {"labelSelector": f"{self.pod_label}={name}"}


PYTORCHJOB = Place(
    kind="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    container="pytorch",
    pod_label="training.kubeflow.org/job-name",
    makers=("",),
    needed="training operator 1.9",
)
TRAINJOB = Place(
    kind="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    container="node",
    pod_label="jobset.sigs.k8s.io/jobset-name",
    makers=("", "-node-0"),  # its JobSet, of the same name, and that one's Job
    needed=f"Kubeflow Trainer 2.2, or 2.3 for another grace_seconds than {GRACE_SECONDS}",
)
PLACES = (PYTORCHJOB, TRAINJOB)
"""In the order in which `backend: auto` looks for them."""

Phase = Literal["created", "pending", "suspended", "running", "restarting", "succeeded", "failed"]


@dataclass(frozen=True)
class JobStatus:
    """What a job says of itself. It is pending while not all of the nodes that it needs run."""

    phase: Phase
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
    """Where the job of `spec`, whose backend is not `auto`, stands in the API."""
    return {"pytorchjob": PYTORCHJOB, "trainjob": TRAINJOB}[spec.backend]


def to_job(spec: JobSpec, name: str, uri: str, owners: Sequence[Manifest] = ()) -> Manifest:
    """The manifest of the job that trains what was asked at `uri`, of the kind that `spec` wants.

    `owners` are references to what the job must not outlive.
    """
    build = {"pytorchjob": to_pytorch_job, "trainjob": to_train_job}[spec.backend]
    return build(spec, name, uri, owners)


def to_pytorch_job(spec: JobSpec, name: str, uri: str, owners: Sequence[Manifest] = ()) -> Manifest:
    """A PyTorchJob: Workers alone when elastic, since only they are counted then; else one Master and its Workers.

    Nodes are started again after a signal (exit codes above 127), and the job fails at once with any other exit code.
    """
    run_policy: Manifest = {
        "cleanPodPolicy": "Running",  # or Workers would hold their GPUs after the end
        "activeDeadlineSeconds": _deadline(spec),
        # The launcher deletes it, or the run's last step. The operator does not once a pod has failed for good: it sets
        # no completionTime then to count from (training-operator v1.9 pkg/controller.v1/common/pod.go).
        "ttlSecondsAfterFinished": 86400,
    }
    if spec.gang or spec.priority_class:
        run_policy["schedulingPolicy"] = _present(
            minAvailable=spec.least_nodes if spec.gang else None,
            priorityClass=spec.priority_class,
        )
    if spec.elastic:
        counts = {"Worker": spec.nodes}
    else:
        counts = {"Master": 1} | ({"Worker": spec.nodes - 1} if spec.nodes > 1 else {})
    template = _pod_template(spec, name, uri)
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
            "rdzvBackend": "c10d",
            "rdzvId": name,
        }
    return _manifest(PYTORCHJOB, spec, name, owners, body)


def to_train_job(spec: JobSpec, name: str, uri: str, owners: Sequence[Manifest] = ()) -> Manifest:
    """A TrainJob on a ClusterTrainingRuntime, which decides about restarts: it can be told no policy of its own."""
    container = _container(spec, uri)
    trainer = {key: container[key] for key in ("image", "command", "args", "env")}
    pod = _pod(spec, name)
    patch = _present(
        serviceAccountName=pod["serviceAccountName"],
        # The runtime has the default already, and Trainer 2.2 knows no other.
        terminationGracePeriodSeconds=spec.grace_seconds if spec.grace_seconds != GRACE_SECONDS else None,
        imagePullSecrets=pod.get("imagePullSecrets"),
        nodeSelector=pod.get("nodeSelector"),
        affinity=pod.get("affinity"),
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
    template = {"metadata": {"annotations": _annotations(spec)}, "spec": patch}
    jobs = [{"name": TRAINJOB.container, "template": {"spec": {"template": template}}}]
    body = {
        "runtimeRef": {"apiGroup": TRAINJOB.group, "kind": "ClusterTrainingRuntime", "name": spec.runtime},
        "activeDeadlineSeconds": _deadline(spec),
        "trainer": {**trainer, "numNodes": spec.nodes, "resourcesPerNode": container["resources"]},
        "runtimePatches": [
            {
                "manager": "drtune/launcher",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
            }
        ],
    }
    return _manifest(TRAINJOB, spec, name, owners, body)


def is_suspended(job: Manifest) -> bool:
    """Whether somebody holds the job back, such as its queue."""
    return bool(job["spec"].get("suspend") or job["spec"].get("runPolicy", {}).get("suspend"))


def status_of(job: Manifest) -> JobStatus:
    """What a job of either kind says of itself."""
    status = job.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", []) if entry["status"] == "True"}
    for condition, phase in _PHASES.items():
        if entry := conditions.get(condition):
            return JobStatus(phase, entry.get("message", ""))
    if "Running" in conditions:  # which a PyTorchJob says as soon as one of its pods runs
        active = sum(replicas.get("active", 0) for replicas in status.get("replicaStatuses", {}).values())
        return JobStatus("running" if active >= _least_nodes(job) else "pending", "")
    jobs = status.get("jobsStatus", [])  # of a TrainJob, which has no condition for it
    if jobs and all(entry.get("ready") for entry in jobs):
        return JobStatus("running", "")
    # `active` counts those too whose pods only wait (JobSet's API: "in a running or pending state").
    return JobStatus("pending" if any(entry.get("active") for entry in jobs) else "created", "")


def _least_nodes(job: Manifest) -> int:
    spec: Manifest = job.get("spec", {})
    replicas = spec.get("pytorchReplicaSpecs", {}).values()
    return int(spec.get("elasticPolicy", {}).get("minReplicas") or sum(role["replicas"] for role in replicas))


_PHASES: Mapping[str, Phase] = {
    "Failed": "failed",  # first: a job that says both has not succeeded
    "Succeeded": "succeeded",
    "Complete": "succeeded",
    "Suspended": "suspended",
    "Restarting": "restarting",
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
    if spec.elastic and spec.backend == "pytorchjob":
        return f"node {node}"
    return f"rank {first}" if count == 1 else f"ranks {first}-{first + count - 1}"


# ----------------------------------------------------------------------------------------------------------------------


def _annotations(spec: JobSpec) -> dict[str, str]:
    # A sidecar would stand between the processes, and never end.
    return {"sidecar.istio.io/inject": "false"} | spec.annotations


def _deadline(spec: JobSpec) -> int:
    # Operators count from the creation of a job, pods or no pods; the launcher tells waiting from running.
    return spec.start_timeout_seconds + spec.run_timeout_seconds


def _manifest(place: Place, spec: JobSpec, name: str, owners: Sequence[Manifest], body: Manifest) -> Manifest:
    labels = {"app.kubernetes.io/name": "drtune", "app.kubernetes.io/component": "train"}
    if spec.queue:
        labels["kueue.x-k8s.io/queue-name"] = spec.queue
    return {
        "apiVersion": place.api,
        "kind": place.kind,
        "metadata": _present(name=name, labels=labels, ownerReferences=list(owners)),
        "spec": body,
    }


def _pod_template(spec: JobSpec, name: str, uri: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "drtune", "app.kubernetes.io/component": "train"}
    return {
        "metadata": {"labels": labels, "annotations": _annotations(spec)},
        "spec": {**_pod(spec, name), "automountServiceAccountToken": False, "containers": [_container(spec, uri)]},
    }


def _pod(spec: JobSpec, name: str) -> Manifest:
    volumes: list[Manifest] = [
        {"name": "work", "emptyDir": {"sizeLimit": spec.scratch}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shared_memory}},
    ]
    volumes += [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(spec.volumes)
    ]
    if spec.ca_bundle:
        volumes.append({"name": "certificates", "configMap": {"name": spec.ca_bundle}})
    return _present(
        serviceAccountName=spec.service_account,
        imagePullSecrets=[{"name": secret} for secret in spec.image_pull_secrets],
        priorityClassName=spec.priority_class,
        nodeSelector=spec.node_selector,
        affinity=_together(spec.topology_key, {place_of(spec).pod_label: name}) if spec.topology_key else None,
        tolerations=[toleration.model_dump(exclude_none=True) for toleration in spec.tolerations],
        terminationGracePeriodSeconds=spec.grace_seconds,
        securityContext=_present(
            runAsNonRoot=True,
            runAsUser=spec.user_id,
            runAsGroup=spec.user_id,
            fsGroup=spec.user_id,  # so that it may write to its volumes
            fsGroupChangePolicy="OnRootMismatch",
            seccompProfile={"type": "RuntimeDefault"},
        ),
        volumes=volumes,
    )


def _together(topology_key: str, labels: Mapping[str, str]) -> Manifest:
    """A wish, no condition: the first pod takes its place before it is known whether there is room for the others."""
    term = {"topologyKey": topology_key, "labelSelector": {"matchLabels": dict(labels)}}
    return {
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    }


def _container(spec: JobSpec, uri: str) -> Manifest:
    mounts = [("work", WORK), ("tmp", "/tmp"), ("shared-memory", "/dev/shm")]
    mounts += [(f"volume-{number}", path) for number, path in enumerate(spec.volumes.values())]
    options = [
        f"--processes={spec.processes_per_node}",
        f"--grace-seconds={spec.grace_seconds}",
        f"--alone-seconds={spec.alone_seconds}",
        f"--join-seconds={spec.join_timeout_seconds}",
    ]
    return {
        "name": PYTORCHJOB.container,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["python", "-m", "drtune.training.node"],
        "args": [uri, f"--work={WORK}", *options],
        "env": _environment(spec),
        "ports": [{"name": "pytorchjob-port", "containerPort": _PORT}],
        "resources": resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last lines, for a launcher that missed them
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, path in mounts),
            *([{"name": "certificates", "mountPath": CERTIFICATES, "readOnly": True}] if spec.ca_bundle else []),
        ],
    }


def resources(spec: JobSpec) -> dict[str, dict[str, str]]:
    """What a node requests and is limited to."""
    amounts = {"cpu": spec.cpu, "memory": spec.memory, **spec.extra_resources}
    if spec.gpus_per_node:
        amounts[spec.gpu_resource] = str(spec.gpus_per_node)
    return {"requests": {**amounts, "ephemeral-storage": spec.scratch}, "limits": amounts}


def _environment(spec: JobSpec) -> list[Manifest]:
    # Libraries write below the home directory and into caches; nothing but WORK can be written to.
    values = {"HOME": WORK, "XDG_CACHE_HOME": f"{WORK}/.cache", "HF_HOME": f"{WORK}/huggingface"}
    values |= (TRUST if spec.ca_bundle else {}) | spec.environment
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

"""What is asked of a cluster for one training, as a typed value: configs/cluster.yaml and overrides of single keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from components.images import TRAINER_IMAGE, USER_ID
from components.train.environment import CERTIFICATES, STEP_HOURS
from drtune.config import Config, load_section
from drtune.config.sections import Section, validated
from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.files.s3 import S3_URI

GRACE_SECONDS = 300
"""As manifests/trainjob/runtime.yaml has it."""
PATHS_OF_OURS = ("/work", "/tmp", "/dev/shm", CERTIFICATES)
"""Where a pod writes, and what it trusts."""


def _quantity(text: str) -> str:
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?)([KMGTPE]i|[mkMGTPE])?", text):
        raise ValueError("wanted an amount as Kubernetes writes it, such as 8, 500m, 64Gi")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", text):
        raise ValueError("wanted the name of a Kubernetes object: lower case letters, digits, '-' and '.'")
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("wanted the name of an environment variable")
    return text


def _s3_uri(text: str) -> str:
    if not S3_URI.fullmatch(text):
        raise ValueError("wanted s3://bucket/prefix")
    return text.rstrip("/")


Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
S3Uri = Annotated[str, AfterValidator(_s3_uri)]


class ElasticSection(Section):
    """A job that may run with fewer nodes than it asks for, and takes more when they come."""

    min_nodes: int = Field(ge=1)
    """The training waits for so many; `nodes` is the most it takes."""


class Toleration(Section):
    """A taint of nodes that the pods put up with, as Kubernetes has it."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class JobSpec(Section):
    """One training job. A node is one pod, with `processes_per_node` data-parallel processes."""

    backend: Literal["auto", "pytorchjob", "trainjob"] = "auto"
    """PyTorchJob of the training operator, TrainJob of Kubeflow Trainer, or the first of them that the cluster has."""
    runtime: Name = "drtune"
    """The ClusterTrainingRuntime that a TrainJob builds on; not used by a PyTorchJob."""
    storage: S3Uri
    """Where runs keep what they are asked, their checkpoints and their model: s3://bucket/prefix."""
    image: str = TRAINER_IMAGE
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of a TrainJob its runtime decides this."""
    image_pull_secrets: tuple[Name, ...] = ()
    service_account: Name = "default"
    """Of the pods that train. They do not speak to the API server and get no token."""
    user_id: int | None = Field(default=USER_ID, ge=1)
    """User and group of those pods; null where the platform gives them, as OpenShift does from a range of its own."""

    nodes: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=1, ge=1)
    elastic: ElasticSection | None = None

    gpus_per_node: int = Field(default=1, ge=0)
    gpu_resource: str = "nvidia.com/gpu"
    cpu: Quantity = "8"
    """CPU cores of a node, requested and limited alike; so is `memory`."""
    memory: Quantity = "64Gi"
    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, which counts as memory once it is used."""
    extra_resources: dict[str, Quantity] = Field(default={})
    """More of what a node has, such as rdma/ib: 1, vpc.amazonaws.com/efa: 4 or hugepages-2Mi: 2Gi."""
    scratch: Quantity = "50Gi"
    """Disk of a node for its request, checkpoints, model, and caches that are on no volume; the node must have it."""

    queue: Name | None = None
    """A LocalQueue of Kueue."""
    priority_class: Name | None = None
    gang: bool = False
    """Ask a gang scheduler to start all nodes of a PyTorchJob together or none; the operator must have one."""
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[Toleration, ...] = ()
    topology_key: str | None = None
    """A label of nodes, such as topology.kubernetes.io/zone: the pods share its value where there is room for that."""
    annotations: dict[str, str] = Field(default={})
    """Of the pods, such as k8s.v1.cni.cncf.io/networks, or kueue.x-k8s.io/podset-required-topology."""

    secrets: dict[Name, tuple[Variable, ...]] = Field(default={})
    """Keys of Kubernetes secrets that become environment variables of the same name, by the secret's name."""
    environment: dict[Variable, str] = Field(default={})
    """More environment variables, such as NCCL_SOCKET_IFNAME or HTTPS_PROXY; nothing secret."""
    ca_bundle: Name | None = None
    """A ConfigMap whose key ca-bundle.crt holds all certificates to trust, of the S3 server and of the hub."""
    volumes: dict[Name, str] = Field(default={})
    """Persistent volume claims by name, and where they are mounted, such as a cache of models."""

    start_timeout_seconds: int = Field(default=6 * 3600, ge=1)
    """From the creation of the job until it trains: in a queue, without a place, pulling images."""
    pull_timeout_seconds: int = Field(default=900, ge=1)
    """How long a pod may be without its image or its secret: a registry may be away, but a wrong name stays wrong."""
    pending_patience_seconds: int = Field(default=600, ge=1)
    """How long pods may be without a place before the step says what can be done about it."""
    join_timeout_seconds: int = Field(default=3600, ge=60)
    """How long a node that has started waits for the others, of which one may still be pulling its image."""
    run_timeout_seconds: int = Field(default=24 * 3600, ge=1)
    """From when its nodes run to its end, restarts included; counted anew when its queue has suspended it."""
    grace_seconds: int = Field(default=GRACE_SECONDS, ge=30)
    """What a pod that must go has to finish its update and save: one update and one upload."""
    restarts: int = Field(default=20, ge=0)
    """How often one node may be lost and started again before the training counts as failed."""
    alone_seconds: int = Field(default=1800, ge=60)
    """A node ends itself when the launcher was not heard of for so long: nothing outlives its run."""

    @model_validator(mode="after")
    def _fits_its_backend(self) -> Self:
        if self.elastic and self.elastic.min_nodes > self.nodes:
            raise ValueError(f"elastic.min_nodes={self.elastic.min_nodes}: more than nodes={self.nodes}")
        if self.backend == "trainjob":
            if self.elastic and self.elastic.min_nodes < self.nodes:
                raise ValueError(
                    f"elastic.min_nodes={self.elastic.min_nodes}: a TrainJob always runs with all its "
                    f"nodes={self.nodes}; set elastic=null, or backend=pytorchjob"
                )
            for key in ("priority_class", "gang"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key}: a TrainJob has no such wish; set it in the runtime, or backend=pytorchjob"
                    )
        return self

    @model_validator(mode="after")
    def _names_nothing_twice(self) -> Self:
        if twice := sorted({"cpu", "memory", "ephemeral-storage", self.gpu_resource} & set(self.extra_resources)):
            raise ValueError(f"extra_resources.{twice[0]}: has a key of its own; give it once")
        for claim, path in self.volumes.items():
            if not path.startswith("/") or path.rstrip("/") in ("", *PATHS_OF_OURS):
                raise ValueError(f"volumes.{claim}={path!r}: wanted a path other than {', '.join(PATHS_OF_OURS)}")
        source: dict[str, str] = {}
        for secret, keys in self.secrets.items():
            for key in keys:
                if key in source:
                    raise ValueError(f"secrets.{secret}: {key} comes from secret {source[key]} already; give it once")
                source[key] = secret
        if twice := sorted(set(self.environment) & set(source)):
            raise ValueError(f"environment.{twice[0]}: comes from a secret too; give it once")
        return self

    @model_validator(mode="after")
    def _ends_before_its_step(self) -> Self:
        if (total := self.start_timeout_seconds + self.run_timeout_seconds) > 3600 * STEP_HOURS:
            raise ValueError(
                f"start_timeout_seconds={self.start_timeout_seconds} and "
                f"run_timeout_seconds={self.run_timeout_seconds}: together {total} s, and the step that waits for the "
                f"job is ended after {3600 * STEP_HOURS} s; lower one of them"
            )
        return self

    def sha256(self) -> str:
        """Digest of all settings, whether given or not."""
        return sha256_bytes(self.model_dump_json().encode())

    @property
    def least_nodes(self) -> int:
        """The training starts with so many."""
        return self.elastic.min_nodes if self.elastic else self.nodes

    @property
    def processes(self) -> range:
        """The numbers of processes that the job may run with."""
        each = self.processes_per_node
        return range(self.least_nodes * each, self.nodes * each + 1, each)


def spec_for(backend: str, spec: JobSpec) -> JobSpec:
    """What `spec` asks for of a job of the kind `backend`.

    Raises:
        UserError: such a job cannot be asked for it.
    """
    return validated(JobSpec, {**spec.model_dump(), "backend": backend})


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """What a YAML file asks for, changed by dotted `key=value` strings.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value has the wrong type, or the whole is impossible.

    >>> load_spec("configs/cluster.yaml", ["nodes=4", "queue=weekly"]).nodes
    4
    """
    return load_section(JobSpec, path, overrides)


def refuse_uneven(config: Config, spec: JobSpec) -> None:
    """Raise UserError for a batch that some number of processes of the job cannot share."""
    for processes in spec.processes:
        if config.batch_size % processes:
            raise UserError(
                f"batch_size={config.batch_size}: cannot be shared evenly by the {processes} processes of "
                f"{processes // spec.processes_per_node} nodes; give a multiple, or another number of nodes"
            )

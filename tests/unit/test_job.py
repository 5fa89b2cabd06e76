"""Training jobs: their manifests, held against the schemas and against those that are committed; their status."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.pods import S3_KEYS, S3_SECRET
from components.train.job import Owner, job_name, node_of, place_of, ranks_of, status_of, to_job
from components.train.spec import JobSpec, load_spec
from drtune.errors import UserError
from tests.cluster_api import SCHEMAS, validator_of

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
CLUSTER = ROOT / "configs" / "cluster.yaml"
CPU = ["gpus_per_node=0", "processes_per_node=1", "cpu=2", "memory=4Gi", "shared_memory=1Gi"]
JOBS = {
    "pytorchjob-elastic": ["elastic.min_nodes=1", "nodes=4"],
    "pytorchjob-fixed": ["elastic=null", "queue=nightly", "priority_class=low", "gang=true"],
    "pytorchjob-one-node": [
        "elastic=null",
        "nodes=1",
        *CPU,
        "tolerations=[]",
        "volumes={}",
        "image_pull_secrets=[pull]",
    ],
    "trainjob": ["backend=trainjob", "elastic=null", "queue=nightly", "node_selector.gpu=a100"],
}


def manifest(*overrides: str) -> dict[str, Any]:
    spec = load_spec(CLUSTER, overrides)
    return to_job(spec, job_name("4b1c"), f"{spec.storage}/4b1c/train", Owner("tune-train-1", "0a1b-2c3d"))


def refuse_invalid(job: dict[str, Any], backend: str) -> None:
    plural = f"{backend}s"
    if (validator := validator_of(plural)) is None:
        pytest.skip(f"no schemas at {SCHEMAS}; set DRTUNE_SCHEMAS to the folder that has them")
    validator.validate(job)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_the_one_that_is_committed(name: str) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(manifest(*JOBS[name]))), sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path} was not there and is written now: read it, and commit it")
    assert text == path.read_text(encoding="utf-8"), f"if this is what you want: delete {path}, run again, commit it"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_valid_for_the_cluster(name: str) -> None:
    refuse_invalid(manifest(*JOBS[name]), "trainjob" if name == "trainjob" else "pytorchjob")


@given(
    backend=st.sampled_from(["pytorchjob", "trainjob"]),
    nodes=st.integers(1, 64),
    processes=st.integers(1, 8),
    gpus=st.integers(0, 8),
    queue=st.sampled_from([None, "nightly"]),
    is_elastic=st.booleans(),
    secrets=st.dictionaries(st.sampled_from(["s3", "hub"]), st.lists(st.sampled_from(["A", "B"]))),
)
def test_every_job_is_valid_and_safe(
    backend: str,
    nodes: int,
    processes: int,
    gpus: int,
    queue: str | None,
    is_elastic: bool,
    secrets: dict[str, list[str]],
) -> None:
    settings = {
        "storage": "s3://drtune/runs",
        "backend": backend,
        "nodes": nodes,
        "processes_per_node": processes,
        "gpus_per_node": gpus,
        "queue": queue,
        "secrets": secrets,
        "elastic": {"min_nodes": 1} if is_elastic and backend == "pytorchjob" else None,
    }
    keys = [key for named in secrets.values() for key in named]
    if len(set(keys)) < len(keys):
        with pytest.raises(ValueError, match="give it once"):
            JobSpec.model_validate(settings)
        return
    spec = JobSpec.model_validate(settings)
    job = to_job(spec, "drtune-a", "s3://drtune/runs/a/train")
    refuse_invalid(job, backend)
    if backend == "pytorchjob":
        counts = {role: replica["replicas"] for role, replica in job["spec"]["pytorchReplicaSpecs"].items()}
        assert sum(counts.values()) == nodes
        assert ("Master" in counts) == (spec.elastic is None)
    for container in containers(job):
        names = [entry["name"] for entry in container.get("env", [])]
        assert len(set(names)) == len(names)
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"] is True
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/work", "/tmp", "/dev/shm"} <= mounted


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Every container in a manifest."""
    found: list[dict[str, Any]] = []
    if isinstance(job, dict):
        found += job.get("containers", [])
        for value in job.values():
            found += containers(value)
    elif isinstance(job, list):
        found += itertools.chain.from_iterable(map(containers, job))
    return found


def test_no_secret_stands_in_a_manifest() -> None:
    (container, *_) = containers(manifest())
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {
        "secretKeyRef": {"name": "drtune-s3", "key": "AWS_SECRET_ACCESS_KEY"}
    }
    assert "value" not in variables["AWS_SECRET_ACCESS_KEY"]


def test_the_launcher_and_the_nodes_take_the_same_secret() -> None:
    assert load_spec(CLUSTER).secrets == {S3_SECRET: tuple(S3_KEYS)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nodez=2", "nodez: no such key; the keys are backend, runtime, storage, "),
        ("elastic.min=1", "elastic.min: no such key; the keys are min_nodes, max_restarts"),
        ("tolerations=[{kay: a}]", "tolerations.0.kay: no such key; the keys are key, operator, value, effect"),
        ("elastic.min_nodes=3", "elastic.min_nodes=3: more than nodes=2"),
        ("nodes=0", "nodes=0: "),
        ("memory=lots", "memory='lots': wanted an amount as Kubernetes writes it, such as 8, 500m, 64Gi"),
        ("storage=runs", "storage='runs': wanted s3://bucket/prefix"),
        ("queue=My Queue", "queue='My Queue': wanted the name of a Kubernetes object"),
        ("backend=trainjob", "elastic: a TrainJob has no such wish; set it in the runtime, or backend=pytorchjob"),
        (
            "volumes.drtune-models=/work/",
            "volumes.drtune-models='/work/': wanted a path other than /work, /tmp, /dev/shm",
        ),
        (
            "environment.AWS_ENDPOINT_URL=http://s3",
            "environment.AWS_ENDPOINT_URL: comes from a secret too; give it once",
        ),
        (
            "secrets.drtune-s3=[not a name]",
            "secrets.drtune-s3.0='not a name': wanted the name of an environment variable",
        ),
        (
            "secrets.keys=[HF_TOKEN, AWS_ENDPOINT_URL]",
            "secrets.keys: AWS_ENDPOINT_URL comes from secret drtune-s3 already; give it once",
        ),
        ("secrets.hub=[HF_TOKEN, HF_TOKEN]", "secrets.hub: HF_TOKEN comes from secret hub already; give it once"),
        (
            "run_timeout_seconds=129600",
            "start_timeout_seconds=21600 and run_timeout_seconds=129600: together 151200 s, and the step that waits "
            "for the job is ended after 144000 s; lower one of them",
        ),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_spec(CLUSTER, [override])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_job_may_take_all_the_time_of_its_step_and_no_more() -> None:
    _, platform = yaml.safe_load_all((ROOT / "pipelines" / "tune.yaml").read_text(encoding="utf-8"))
    step = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    limit = int(step["activeDeadlineSeconds"])
    spec = load_spec(CLUSTER, [f"run_timeout_seconds={limit - 21600}"])
    assert spec.start_timeout_seconds + spec.run_timeout_seconds == limit
    with pytest.raises(UserError, match="lower one of them"):
        load_spec(CLUSTER, [f"run_timeout_seconds={limit - 21600 + 1}"])


@pytest.mark.parametrize("run_id", ["", "a b", "../etc", "x" * 47, "trailing-"])
def test_a_run_that_cannot_name_a_job_is_refused(run_id: str) -> None:
    with pytest.raises(UserError, match="run id"):
        job_name(run_id)


def test_names_of_pods_and_services_stay_within_63_characters() -> None:
    name = job_name("0a1b2c3d-4e5f-6789-abcd-ef0123456789")
    assert len(f"{name}-worker-999") <= 63


def conditions(**statuses: str) -> dict[str, Any]:
    entries = [{"type": kind, "status": status, "message": f"is {kind}"} for kind, status in statuses.items()]
    return {"status": {"conditions": entries}}


@pytest.mark.parametrize(
    ("job", "phase"),
    [
        ({}, "created"),
        (conditions(Created="True"), "created"),
        (conditions(Created="True", Running="True"), "running"),
        (conditions(Running="False", Restarting="True"), "restarting"),
        (conditions(Suspended="True", Running="False"), "suspended"),
        (conditions(Suspended="False", Running="True"), "running"),
        (conditions(Running="False", Succeeded="True"), "succeeded"),
        (conditions(Running="False", Failed="True"), "failed"),
        (conditions(Succeeded="True", Failed="True"), "failed"),
        (conditions(Succeeded="False", Failed="False"), "created"),
        (conditions(Complete="True"), "succeeded"),
        (conditions(Complete="Unknown"), "created"),
        ({"status": {"jobsStatus": [{"name": "node", "active": 2}]}}, "running"),
    ],
)
def test_a_status_is_read_for_what_it_says(job: dict[str, Any], phase: str) -> None:
    assert status_of(job).phase == phase


def test_only_a_true_condition_of_success_is_success() -> None:
    kinds = ("Created", "Running", "Restarting", "Suspended", "Failed")
    for statuses in itertools.product(("True", "False", "Unknown"), repeat=len(kinds)):
        assert status_of(conditions(**dict(zip(kinds, statuses, strict=True)))).phase != "succeeded"


def worker(index: int, role: str = "worker") -> dict[str, Any]:
    labels = {"training.kubeflow.org/replica-type": role, "training.kubeflow.org/replica-index": str(index)}
    return {"metadata": {"labels": labels}}


def test_the_ranks_of_a_node_are_counted_from_its_master() -> None:
    fixed, elastic = (load_spec(CLUSTER, overrides) for overrides in (["elastic=null"], []))
    assert [ranks_of(node_of(found, fixed), fixed) for found in (worker(0, "master"), worker(0), worker(1))] == [
        "ranks 0-7",
        "ranks 8-15",
        "ranks 16-23",
    ]
    assert ranks_of(node_of(worker(1), elastic), elastic) == "node 1"
    trainjob = load_spec(CLUSTER, ["backend=trainjob", "elastic=null", "processes_per_node=1"])
    labels = {"batch.kubernetes.io/job-completion-index": "3"}
    assert ranks_of(node_of({"metadata": {"labels": labels}}, trainjob), trainjob) == "rank 3"


def test_each_backend_has_its_place() -> None:
    assert place_of(load_spec(CLUSTER)).plural == "pytorchjobs"
    assert place_of(load_spec(CLUSTER, ["backend=trainjob", "elastic=null"])).group == "trainer.kubeflow.org"

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
from components.train.job import job_name, node_of, place_of, ranks_of, status_of, to_job
from components.train.spec import GRACE_SECONDS, JobSpec, load_spec, spec_for
from drtune.errors import UserError
from drtune.training.node import ALONE
from tests.cluster_schemas import SCHEMAS, validator_of

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
CLUSTER = ROOT / "configs" / "cluster.yaml"
CPU = ["gpus_per_node=0", "processes_per_node=1", "cpu=2", "memory=4Gi", "shared_memory=1Gi"]
JOBS = {
    "pytorchjob-elastic": ["backend=pytorchjob", "elastic.min_nodes=1", "nodes=4"],
    "pytorchjob-fixed": ["backend=pytorchjob", "elastic=null", "queue=nightly", "priority_class=low", "gang=true"],
    "pytorchjob-one-node": [
        "backend=pytorchjob",
        "elastic=null",
        "nodes=1",
        *CPU,
        "tolerations=[]",
        "volumes={}",
        "image_pull_secrets=[pull]",
        "user_id=null",
    ],
    "trainjob": ["backend=trainjob", "queue=nightly", "node_selector.gpu=a100"],
    **{
        f"{backend}-rdma": [
            f"backend={backend}",
            "elastic=null",
            "extra_resources={rdma/ib: 1}",
            "topology_key=topology.kubernetes.io/zone",
            "annotations={k8s.v1.cni.cncf.io/networks: rdma}",
            "environment.NCCL_IB_HCA=mlx5",
            "ca_bundle=company",
        ]
        for backend in ("pytorchjob", "trainjob")
    },
}


def manifest(*overrides: str) -> dict[str, Any]:
    spec = load_spec(CLUSTER, overrides)
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "tune-7xk2p", "uid": "0a1b-2c3d"}
    return to_job(spec, job_name("4b1c"), f"{spec.storage}/4b1c/train", [owner])


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
    refuse_invalid(manifest(*JOBS[name]), name.partition("-")[0])


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
    (container, *_) = containers(manifest("backend=pytorchjob"))
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
        ("nodez=2", "nodez: no such key; did you mean nodes?"),
        ("elastic.min=1", "elastic.min: no such key; the keys are min_nodes"),
        ("tolerations=[{kay: a}]", "tolerations.0.kay: no such key; did you mean key?"),
        ("elastic.min_nodes=3", "elastic.min_nodes=3: more than nodes=2"),
        ("nodes=0", "nodes=0: "),
        ("user_id=0", "user_id=0: "),
        ("memory=lots", "memory=lots: wanted an amount as Kubernetes writes it, such as 8, 500m, 64Gi"),
        ("storage=runs", "storage=runs: wanted s3://bucket/prefix"),
        ("storage=s3://runs/../a", "storage=s3://runs/../a: wanted s3://bucket/prefix"),
        ("queue=My Queue", "queue=My Queue: wanted the name of a Kubernetes object"),
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
            "secrets.drtune-s3.0=not a name: wanted the name of an environment variable",
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


def test_a_train_job_cannot_shrink() -> None:
    with pytest.raises(UserError, match=r"^elastic.min_nodes=1: a TrainJob always runs with all its nodes=2; set elas"):
        load_spec(CLUSTER, ["backend=trainjob", "elastic.min_nodes=1"])
    assert load_spec(CLUSTER, ["backend=trainjob"]).processes == range(16, 17, 8)
    with pytest.raises(UserError, match="gang: a TrainJob has no such wish"):
        load_spec(CLUSTER, ["backend=trainjob", "gang=true"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("cluster*.yaml")), ids=lambda path: path.name)
def test_every_cluster_file_is_one_that_a_job_can_be_made_of(path: Path) -> None:
    spec = load_spec(path)
    assert spec.secrets == {S3_SECRET: tuple(S3_KEYS)}
    for backend in ("pytorchjob", "trainjob"):
        if spec.backend in ("auto", backend):
            refuse_invalid(to_job(spec_for(backend, spec), "drtune-a", "s3://drtune/runs/a/train"), backend)


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
        ({"status": {"jobsStatus": [{"name": "node", "active": 0, "ready": 0}]}}, "created"),
        ({"status": {"jobsStatus": [{"name": "node", "active": 1, "ready": 0}]}}, "pending"),
        ({"status": {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]}}, "running"),
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
    fixed, elastic = (load_spec(CLUSTER, ["backend=pytorchjob", *more]) for more in (["elastic=null"], []))
    assert [ranks_of(node_of(found, fixed), fixed) for found in (worker(0, "master"), worker(0), worker(1))] == [
        "ranks 0-7",
        "ranks 8-15",
        "ranks 16-23",
    ]
    assert ranks_of(node_of(worker(1), elastic), elastic) == "node 1"
    trainjob = load_spec(CLUSTER, ["backend=trainjob", "processes_per_node=1"])
    labels = {"batch.kubernetes.io/job-completion-index": "3"}
    assert ranks_of(node_of({"metadata": {"labels": labels}}, trainjob), trainjob) == "rank 3"


def test_each_backend_has_its_place() -> None:
    assert place_of(load_spec(CLUSTER, ["backend=pytorchjob"])).plural == "pytorchjobs"
    assert place_of(load_spec(CLUSTER, ["backend=trainjob"])).group == "trainer.kubeflow.org"


@pytest.mark.parametrize(
    ("active", "phase"), [({}, "pending"), ({"Worker": 1}, "pending"), ({"Master": 1, "Worker": 1}, "running")]
)
def test_a_pytorch_job_runs_when_all_of_its_nodes_do(active: dict[str, int], phase: str) -> None:
    job = manifest("backend=pytorchjob", "elastic=null") | conditions(Created="True", Running="True")
    job["status"]["replicaStatuses"] = {role: {"active": count} for role, count in active.items()}
    assert status_of(job).phase == phase


def test_an_elastic_job_runs_when_the_fewest_of_its_nodes_do() -> None:
    job = manifest(*JOBS["pytorchjob-elastic"]) | conditions(Running="True")
    job["status"]["replicaStatuses"] = {"Worker": {"active": 1}}
    assert status_of(job).phase == "running"


def test_a_train_job_has_no_field_that_its_oldest_version_does_not_know() -> None:
    def pod(*overrides: str) -> dict[str, Any]:
        (patch,) = manifest("backend=trainjob", *overrides)["spec"]["runtimePatches"]
        (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        return dict(job["template"]["spec"]["template"]["spec"])

    assert "terminationGracePeriodSeconds" not in pod()  # new in Trainer 2.3
    assert pod("grace_seconds=60")["terminationGracePeriodSeconds"] == 60
    [runtime] = yaml.safe_load_all((ROOT / "manifests" / "trainjob" / "runtime.yaml").read_text(encoding="utf-8"))
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == GRACE_SECONDS


def test_a_train_job_ends_by_the_exit_codes_that_starting_again_cannot_help() -> None:
    [runtime] = yaml.safe_load_all((ROOT / "manifests" / "trainjob" / "runtime.yaml").read_text(encoding="utf-8"))
    spec = runtime["spec"]["template"]["spec"]
    (job,) = spec["replicatedJobs"]
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    codes = {"containerName": container["name"], "operator": "In", "values": [1, UserError.exit_code, ALONE]}
    assert rule == {"action": "FailJob", "onExitCodes": codes}
    (end,) = spec["failurePolicy"]["rules"]
    assert (end["action"], end["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_the_last_lines_of_a_node_are_kept_by_jobs_of_both_kinds() -> None:
    [runtime] = yaml.safe_load_all((ROOT / "manifests" / "trainjob" / "runtime.yaml").read_text(encoding="utf-8"))
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    workers = manifest("backend=pytorchjob")["spec"]["pytorchReplicaSpecs"]["Worker"]
    for template in (job["template"]["spec"]["template"], workers["template"]):
        (container,) = template["spec"]["containers"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_platform_that_gives_users_of_its_own_is_asked_for_none() -> None:
    for backend in ("pytorchjob", "trainjob"):
        text = json.dumps(manifest(f"backend={backend}", "user_id=null"))
        assert "runAsUser" not in text
        assert 'fsGroup"' not in text
        assert text.count('"runAsNonRoot": true') >= 2

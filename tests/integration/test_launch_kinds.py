"""The launcher on clusters with one kind of job, the other, neither, an older version, or a queue that ignores it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.train.cluster import Cluster
from components.train.job import to_job
from components.train.launch import end_job
from drtune.errors import UserError
from tests.cluster_api import ClusterApi
from tests.launches import Tried
from tests.operator import JOBS, TRAINJOBS, Played, PlayedJob


@pytest.mark.parametrize(
    ("kinds", "collection"), [({"pytorchjobs", "trainjobs"}, JOBS), ({"pytorchjobs"}, JOBS), ({"trainjobs"}, TRAINJOBS)]
)
def test_of_itself_it_makes_a_job_of_the_kind_that_there_is(
    api: ClusterApi, tmp_path: Path, some_prompts: Path, kinds: set[str], collection: str
) -> None:
    tried = Tried(api, tmp_path, some_prompts, backend="auto", elastic={"min_nodes": 2})
    api.kinds = kinds
    made: list[str] = []

    def script(job: PlayedJob) -> None:
        made.append(job.jobs)
        tried.answers()
        done = "Complete" if job.jobs == TRAINJOBS else "Succeeded"
        status = {"conditions": [{"type": done, "status": "True", "message": ""}]}
        api.put(job.jobs, {**api.objects[job.jobs, job.name], "status": status})

    with Played(api, script):
        tried.train()
    assert made == [collection]
    assert tried.left() == []


def test_a_cluster_without_either_kind_is_told_what_it_needs(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    tried = Tried(api, tmp_path, some_prompts, backend="auto")
    api.kinds = set()
    needs = r"has neither PyTorchJob \(kubeflow.org/v1\) nor TrainJob \(trainer.kubeflow.org/v1alpha1\); install"
    with pytest.raises(UserError, match=needs):
        tried.train()


@pytest.mark.parametrize(
    ("backend", "needed"), [("trainjob", "Kubeflow Trainer 2.2"), ("pytorchjob", "training operator 1.9")]
)
def test_a_field_that_the_cluster_would_drop_is_named_with_the_version_that_has_it(
    api: ClusterApi, tmp_path: Path, some_prompts: Path, backend: str, needed: str
) -> None:
    tried = Tried(api, tmp_path, some_prompts, backend=backend)
    api.lacking = {"runtimePatches", "nprocPerNode"}
    field = {"trainjob": "spec.runtimePatches", "pytorchjob": "spec.nprocPerNode"}[backend]
    with pytest.raises(UserError, match=f"has no field {field}; it needs {needed}") as refusal:
        tried.train()
    assert "\n" not in str(refusal.value)
    assert tried.left() == []


def test_a_queue_that_ignores_the_job_ends_it_instead_of_running_outside_of_its_quota(
    api: ClusterApi, tmp_path: Path, some_prompts: Path
) -> None:
    tried = Tried(api, tmp_path, some_prompts, queue="nightly")
    api.queued = {"trainjobs"}  # as Kueue 0.19 is shipped
    with pytest.raises(UserError, match=r"^queue=nightly: Kueue ignores the PyTorchJob .* set backend=trainjob"):
        tried.train()
    assert tried.left() == []


def test_the_end_of_a_run_deletes_its_job_of_either_kind(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> None:
    for backend, collection in (("pytorchjob", JOBS), ("trainjob", TRAINJOBS)):
        tried = Tried(api, tmp_path, some_prompts, backend=backend)
        api.put(collection, to_job(tried.launch.spec, tried.launch.name, "s3://runs"))
        assert end_job("4b1c", Cluster(api.client(), "default")) == "drtune-4b1c"
        assert tried.left() == []
        assert end_job("4b1c", Cluster(api.client(), "default")) is None
    api.kinds = {"pytorchjobs"}
    assert end_job("another", Cluster(api.client(), "default")) is None
    assert api.of("pods")[0]["metadata"]["name"].startswith("tune-")  # nothing else is touched

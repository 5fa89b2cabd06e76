"""A training of two nodes, as a PyTorchJob and as a TrainJob, that loses a node and its launcher and ends well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.train.spec import load_spec
from tests.cluster.site import CLUSTER, JOBS, LONG, MINUTE, ROOT, Run, Site, delete, eventually, parameters, story

pytestmark = story(JOBS)
KINDS = {"pytorchjob": ["backend=pytorchjob"], "trainjob": ["backend=trainjob", "elastic=null"]}
"""What is changed in the cluster's file for each."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_outlives_the_loss_of_a_node_and_of_its_launcher(
    kind: str, site: Site, start: Callable[..., Run]
) -> None:
    given = parameters(
        overrides=LONG, cluster=CLUSTER, cluster_overrides=KINDS[kind], registry=f"{site.own}/registry", name=kind
    )
    run = start(kind, *given)
    storage = load_spec(ROOT / CLUSTER).storage
    eventually("a checkpoint is stored", lambda: run.checkpoints(storage), 15 * MINUTE)
    [job] = run.jobs()
    assert job["kind"].lower() == kind
    assert "/30" in run.log("train")  # its lines are streamed
    before = {pod.metadata.uid for pod in run.ranks()}
    assert len(before) == 2

    delete(run.ranks()[-1], grace_seconds=0)
    eventually(
        "a new pod replaced the lost one", lambda: {pod.metadata.uid for pod in run.ranks()} - before, 10 * MINUTE
    )

    launcher = run.pod("train")
    delete(launcher)
    assert [one["metadata"]["uid"] for one in run.jobs()] == [job["metadata"]["uid"]]  # it goes on without
    run.writes("train", "adopted from an earlier try|an earlier try had it made", minutes=10)

    last = run.ends(well=True, minutes=40)
    assert ": refused: " in last  # four prompts are too few for the policy

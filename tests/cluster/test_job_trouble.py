"""Trainings that must end: cancelled, misconfigured, without a place. No job outlives its run."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.cluster.site import CLUSTER, JOBS, LONG, MINUTE, SHORT, Run, Site, eventually, parameters, story
from tests.cluster.test_jobs import KINDS

pytestmark = story(JOBS)


def given(site: Site, kind: str, overrides: tuple[str, ...], *more: str) -> list[str]:
    places = {"registry": f"{site.own}/registry", "name": f"trouble-{kind}"}
    return parameters(overrides=overrides, cluster=CLUSTER, cluster_overrides=[*KINDS[kind], *more], **places)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_run_is_called_cancelled_and_its_job_ends_with_it(
    kind: str, site: Site, start: Callable[..., Run]
) -> None:
    run = start(f"cancelled {kind}", *given(site, kind, LONG))
    eventually("the job is there", run.jobs, 10 * MINUTE)
    run.cancel()
    assert "cancelled in train" in run.ends(well=False, minutes=10)
    run.leaves_nothing()
    assert "outcome: cancelled in train" in run.log("finish")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_of_the_user_ends_the_job_at_once_and_is_its_last_line(
    kind: str, site: Site, start: Callable[..., Run]
) -> None:
    run = start(f"mistaken {kind}", *given(site, kind, ("base_model=/nowhere/to-be-found", *SHORT)))
    last = run.ends(well=False, minutes=15)
    assert "train: " in last
    assert "nowhere/to-be-found" in last
    log = run.log("train")
    assert len(re.findall("error: .*nowhere/to-be-found", log)) <= 6  # two nodes, and not twenty restarts of each
    assert "TCPStore" not in last


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_finds_no_place_says_so_in_the_schedulers_words(
    kind: str, site: Site, start: Callable[..., Run]
) -> None:
    run = start(f"unschedulable {kind}", *given(site, kind, SHORT, "cpu=900"))
    log = run.writes("train", "Insufficient cpu", minutes=10)
    assert not re.search(r"training job \S+: running", log)
    run.cancel()
    assert "cancelled in train" in run.ends(well=False, minutes=10)

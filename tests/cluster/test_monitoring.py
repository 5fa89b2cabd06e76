"""Watching what comes in: alone, on a schedule, and as the reason to tune anew."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest

from tests.cluster.site import MINUTE, SHORT, Run, Site, end_all, eventually, parameters, story

pytestmark = story("monitoring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")


def lines(template: str) -> bytes:
    texts = [template.format(one, shape, other) for one in COLOURS for other in COLOURS for shape in SHAPES]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture(scope="module")
def traffic(site: Site) -> dict[str, str]:
    """Prompts on S3: what was trained on, what comes in and is alike, and what comes in and is not."""
    storage = site.storage(site.own)
    known = lines("a {} {} above a {} ring, on a white background")
    storage.write("reference.jsonl", known)
    storage.write("stable/monday.jsonl", known)
    storage.write("drifted/monday.jsonl", lines("oil painting of one enormous {} whale, its {} fins, and a {} storm"))
    return {name: f"{site.own}/{name}" for name in ("reference.jsonl", "stable", "drifted")}


def watching(traffic: dict[str, str], incoming: str) -> list[str]:
    return parameters(reference=traffic["reference.jsonl"], incoming=traffic[incoming])


def test_what_is_alike_is_stable_and_what_is_not_has_drifted(
    traffic: dict[str, str], start: Callable[..., Run]
) -> None:
    stable = start("stable", *watching(traffic, "stable"), package="monitor")
    drifted = start("drifted", *watching(traffic, "drifted"), package="monitor")
    stable.ends(well=True, minutes=15)
    drifted.ends(well=True, minutes=15)
    assert "stable: " in stable.log("monitor")
    assert "drifted: " in drifted.log("monitor")


def test_nothing_is_tuned_while_nothing_drifts(traffic: dict[str, str], start: Callable[..., Run]) -> None:
    run = start("retrain stable", *watching(traffic, "stable"), package="retrain")
    run.ends(well=True, minutes=15)
    assert run.log("prepare-prompts") == ""


def test_what_drifted_is_tuned(traffic: dict[str, str], site: Site, start: Callable[..., Run]) -> None:
    more = parameters(overrides=SHORT, registry=f"{site.own}/registry", name="retrained")
    run = start("retrain drifted", *watching(traffic, "drifted"), *more, package="retrain")
    run.writes("prepare-prompts", "prompts to train on", minutes=15)
    run.cancel()  # that a tuning ends well is told elsewhere
    assert "cancelled" in run.ends(well=False, minutes=10)
    assert "outcome: cancelled" in run.log("finish")


def test_a_schedule_starts_runs_by_itself_until_it_is_deleted(traffic: dict[str, str], site: Site) -> None:
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    package = ["-f", str(site.packages / "monitor.yaml"), "--inline", "-e", name, "--service-account", site.account]
    site.call("schedule", name, "--cron", "* * * * *", *package, *watching(traffic, "stable"))
    try:
        assert name in site.call("schedule", "list")
        eventually("a run of the schedule went well", lambda: _succeeded(site, name), 15 * MINUTE)
    finally:
        site.call("schedule", "delete", name)
        end_all(site.runs(name))
    assert name not in site.call("schedule", "list")


def _succeeded(site: Site, experiment: str) -> list[Run]:
    return [run for run in site.runs(experiment) if run.state == "succeeded"]

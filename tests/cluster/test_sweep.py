"""A sweep: runs that differ in a setting, side by side, and one table with the gains of each."""

from __future__ import annotations

import uuid

from tests.cluster.site import SHORT, Site, end_all, parameters, story

pytestmark = story("sweep")


def test_runs_of_a_sweep_end_in_one_table(site: Site) -> None:
    experiment = f"e2e-sweep-{uuid.uuid4().hex[:6]}"
    options = ["-f", str(site.packages / "tune.yaml"), "--inline", "-e", experiment, "-r", "e2e sweep"]
    options += ["--service-account", site.account, "--vary", "optimizer.learning_rate=1e-4,2e-4"]
    more = parameters(overrides=SHORT, registry=f"{site.own}/registry")
    try:
        said = site.call("submit", "--wait", *options, *more).splitlines()
    finally:
        end_all(site.runs(experiment))
    for rate in ("1e-4", "2e-4"):
        row = len(said) - 1 - said[::-1].index(f"optimizer.learning_rate={rate}")
        assert said[row + 1].startswith("  symmetry "), said[row:]

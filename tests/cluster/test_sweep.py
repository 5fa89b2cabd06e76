"""A sweep: runs that differ in a setting, side by side, and one table with the gains of each."""

from __future__ import annotations

from tests.cluster.site import SHORT, STORY, Site, parameters

pytestmark = STORY


def test_runs_of_a_sweep_end_in_one_table(site: Site) -> None:
    options = ["-f", str(site.packages / "tune.yaml"), "--inline", "-e", "drtune-e2e", "-r", "e2e sweep"]
    options += ["--service-account", site.account, "--vary", "optimizer.learning_rate=1e-4,2e-4"]
    more = parameters(overrides=SHORT, registry=f"{site.own}/registry")
    said = site.call("submit", "--wait", *options, *more).splitlines()
    for rate in ("1e-4", "2e-4"):
        row = len(said) - 1 - said[::-1].index(f"optimizer.learning_rate={rate}")
        assert said[row + 1].startswith("  symmetry "), said[row:]

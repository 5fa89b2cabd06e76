"""A run as the form of the UI starts it, no field touched: a model is published, and can be fetched and verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from components.registry import IN_A_POD
from drtune.publishing.registry import Registry
from tests.cluster.site import Run, Site, story

pytestmark = story("published")


def test_the_miniature_is_published_by_the_defaults_alone(
    site: Site, start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start("published")
    run.writes("train", r"\d+/100", minutes=15)  # progress is seen while it trains
    last = run.ends(well=True, minutes=40)

    published = re.search(r"published as miniature-symmetry (v\d+) at (s3://\S+)", last)
    assert published, last
    outcome = run.log("finish").rstrip("\n").splitlines()
    assert any(line.startswith(f"outcome: published as miniature-symmetry {published[1]} at ") for line in outcome)
    assert "published as" in site.call("status", run.id)

    registry = Registry(site.storage(IN_A_POD))
    entry = registry.pull("miniature-symmetry", published[1], tmp_path / "model")
    assert entry.uri == published[2].rstrip(";,")
    assert (tmp_path / "model" / "evaluation" / "report.html").stat().st_size > 10_000

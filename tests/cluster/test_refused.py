"""A model that deserves no publication: the run is green, nothing is published, and the reasons are told."""

from __future__ import annotations

from collections.abc import Callable

from drtune.publishing.registry import Registry
from tests.cluster.site import SHORT, Run, Site, parameters, story

pytestmark = story("refused")


def test_a_refused_model_is_told_with_the_rules_it_failed_and_is_nowhere_published(
    site: Site, start: Callable[..., Run]
) -> None:
    registry = f"{site.own}/registry"
    run = start("refused", *parameters(overrides=SHORT, registry=registry, name="refused"))
    last = run.ends(well=True, minutes=30)
    assert ": refused: " in last
    assert "64 wanted" in last  # min_prompts of configs/gate.yaml
    assert "outcome: refused: " in run.log("finish")
    assert "64 wanted" in run.log("finish")
    assert Registry(site.storage(registry)).list() == []

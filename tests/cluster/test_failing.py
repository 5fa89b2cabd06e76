"""Steps that fail say why: in the last line of `status --wait`, in `finish`, and in their logs, pods or no pods."""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster.site import SHORT, Run, Site, delete, eventually, parameters, story

pytestmark = story("failing")


def test_a_step_that_fails_is_named_with_its_own_words_also_after_its_pod_is_gone(
    site: Site, start: Callable[..., Run]
) -> None:
    run = start("failing", *parameters(prompts=f"{site.own}/nothing.jsonl", registry=f"{site.own}/registry"))
    bucket = start("no bucket", *parameters(registry="s3://drtune-no-such-bucket/registry"))

    last = run.ends(well=False, minutes=15)
    assert "prepare-prompts: " in last
    assert "nothing.jsonl" in last
    assert "outcome: failed in prepare-prompts: " in run.log("finish")
    assert "nothing.jsonl" in run.log("finish")

    told = run.log("prepare-prompts")
    assert "nothing.jsonl" in told
    delete(run.pod("prepare-prompts"))
    eventually("the pod of the failed step is gone", lambda: run.pod("prepare-prompts") is None, 60)
    assert "nothing.jsonl" in run.log("prepare-prompts")

    last = bucket.ends(well=False, minutes=15)  # before anything is trained
    assert "prepare-prompts: " in last
    assert "no bucket drtune-no-such-bucket" in last


def test_a_model_that_cannot_be_tuned_fails_its_training_once(site: Site, start: Callable[..., Run]) -> None:
    wrong = ["base_model=/nowhere/to-be-found", *SHORT]
    run = start("wrong base", *parameters(overrides=wrong, registry=f"{site.own}/registry"))
    last = run.ends(well=False, minutes=20)
    assert "train: " in last
    assert "nowhere/to-be-found" in last
    assert "outcome: failed in train: " in run.log("finish")


def test_a_run_that_failed_goes_on_once_its_cause_is_mended(site: Site, start: Callable[..., Run]) -> None:
    prompts, registry = f"{site.own}/late.txt", f"{site.own}/registry"
    run = start("retried", *parameters(prompts=prompts, overrides=SHORT, registry=registry))
    assert "late.txt" in run.ends(well=False, minutes=15)

    colours = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
    texts = [f"a {one} circle above a {other} ring" for one in colours for other in colours]
    site.storage(site.own).write("late.txt", "\n".join(texts).encode())
    assert "goes on" in site.call("retry", run.id)
    assert ": refused: " in run.ends(well=True, minutes=40)

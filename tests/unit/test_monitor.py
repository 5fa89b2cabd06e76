"""The checks of drift: their numbers, and that whatever comes in leads to a verdict."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import dsl

from components.monitor.compare import compare_prompts, compare_scores, describe, embed, sample
from components.monitor.component import monitor as component
from components.monitor.drift import NotEnoughDataError, Samples, measure, render
from components.monitor.policy import MonitorPolicy
from components.monitor.run import judge
from components.monitor.verdict import as_html, as_markdown, in_order, in_words, outcome_of
from drtune.contracts import DriftCheck, DriftOutcome, DriftVerdict, Observed
from drtune.errors import UserError
from drtune.prompts.prepare import Prompt
from pipelines.cli.monitor import EXIT_CODES

POLICY = MonitorPolicy.read(Path(__file__).parents[2] / "configs/monitor.yaml").model_copy(
    update={"min_prompts": 20, "min_scores": 20}
)
OUTPUTS = {"verdict": dsl.Artifact, "page": dsl.HTML, "summary": dsl.Markdown, "metrics": dsl.Metrics}
EVIL = "</script><img src=x onerror=alert(1)>"
COLOURS = ("red", "green", "blue", "pink", "grey")
THINGS = ("cat", "dog", "house", "tree", "boat", "moon")


def prompts_of(adjectives: tuple[str, ...], category: str = "") -> list[Prompt]:
    """Sixty different prompts."""
    texts = [f"a {one} {thing} and a {other} one" for one in adjectives for thing in THINGS for other in ("old", "new")]
    return [Prompt(text, category) for text in texts]


def check(name: str = "words", drifted: bool | None = False, subject: str = "prompts") -> DriftCheck:
    value = None if drifted is None else 0.5
    return DriftCheck(
        name=name, subject=subject, statistic="s", value=value, threshold=0.4, drifted=drifted, reason="because"
    )


def observed(source: str = "in.txt", **changes: object) -> Observed:
    values = {"source": source, "sha256": "ab", "num_files": 1, "count": 9, "used": 9, "problems": {}} | changes
    return Observed.model_validate(values)


def verdict(*checks: DriftCheck, **changes: object) -> DriftVerdict:
    outcome, reason = outcome_of(checks, 1)
    whole = DriftVerdict(
        outcome=outcome,
        reason=reason,
        checks=checks,
        reference=observed(),
        incoming=observed(),
        release_scores=None,
        scores=None,
        policy_sha256="cd",
    )
    return whole.model_copy(update=changes)


def column(values: object, name: str = "x") -> pd.DataFrame:
    return pd.DataFrame({name: values})


def test_a_shift_by_half_a_standard_deviation_is_measured_as_such() -> None:
    numbers = np.random.default_rng(0).normal(size=400)
    shifted = column(numbers + 0.5 * numbers.std())
    assert measure(Samples("x", "wasserstein", 0.4, column(numbers), shifted)).value == pytest.approx(0.5)
    assert measure(Samples("x", "rise", 0.4, column(numbers), column(numbers - 2))).value == pytest.approx(-2)


def test_the_shares_of_categories_have_their_jensen_shannon_distance() -> None:
    half, all_a = column(["a", "b"] * 30), column(["a"] * 60)
    middle = np.array([0.75, 0.25])
    divergence = 0.5 * (np.sum([0.5, 0.5] * np.log([0.5, 0.5] / middle)) + math.log(1 / 0.75))
    assert measure(Samples("x", "jensenshannon", 0.2, half, all_a)).value == pytest.approx(math.sqrt(divergence))
    apart = measure(Samples("x", "jensenshannon", 0.2, all_a, column(["b"] * 60)))
    assert apart.value == pytest.approx(math.sqrt(math.log(2)))


def test_vectors_have_their_maximum_mean_discrepancy() -> None:
    draw = np.random.default_rng(0)
    left, right = (pd.DataFrame(draw.normal(size=(50, 3)) + shift) for shift in (0, 1))
    both = np.vstack([left, right])
    distances = np.linalg.norm(both[:, None] - both[None], axis=2)
    kernel = np.exp(-(distances**2) / np.median(distances[:50, 50:]) ** 2)
    same = [(kernel[rows, rows].sum() - 50) / (50 * 49) for rows in (slice(50), slice(50, None))]
    expected = sum(same) - 2 * kernel[:50, 50:].mean()
    assert measure(Samples("x", "mmd", 0.02, left, right)).value == pytest.approx(expected)
    assert measure(Samples("x", "mmd", 0.02, left, left)).value == 0.0


def test_a_statistic_that_is_not_defined_is_told() -> None:
    same = pd.DataFrame(np.ones((30, 2)))
    with pytest.raises(NotEnoughDataError, match="not defined"):
        measure(Samples("x", "mmd", 0.02, same, same))
    with pytest.raises(NotEnoughDataError, match=r"no terms remain|empty vocabulary"):
        measure(Samples("x", "auc", 0.7, column(["!"] * 30), column(["?"] * 30)))


def test_prompts_are_described_by_numbers() -> None:
    trained = [Prompt("a red cat", "animals"), Prompt("a red dog", ""), Prompt("...", "")]
    left, right = describe(trained, [Prompt("A cat, one UFO", "")])
    assert left["characters"].tolist() == [9, 9, 3]
    assert left["words"].tolist() == [3, 3, 0]
    # "cat" and "dog" stand in no other prompt of the reference; "..." has no words to be new.
    assert left["new words"].fillna(-1).tolist() == pytest.approx([1 / 3, 1 / 3, -1])
    assert right["new words"].tolist() == [0.5]
    assert left["categories"].tolist() == ["animals", None, None]


def test_embeddings_have_length_one_and_are_those_of_either_order() -> None:
    left, right = embed(["red cat", "blue dog"], ["red dog", "blue cat", "green boat"])
    assert (left.shape[0], right.shape[0]) == (2, 3)
    assert np.linalg.norm(pd.concat([left, right]), axis=1) == pytest.approx(np.ones(5))
    with pytest.raises(NotEnoughDataError, match="2 different words, 3 wanted"):
        embed(["red cat"], ["cat"])
    with pytest.raises(NotEnoughDataError, match="no words"):
        embed(["!"], ["?"])


def test_a_sample_is_the_same_each_time_and_in_order() -> None:
    table = column(range(100))
    assert sample(table, 10).equals(sample(table, 10))
    assert sample(table, 10)["x"].is_monotonic_increasing
    assert len(sample(table, 10)) == 10
    assert sample(table, 100) is table


def test_other_prompts_drift_and_the_same_do_not() -> None:
    trained = prompts_of(COLOURS, "a")
    others = [Prompt(f"studio portrait of {each.text}, bokeh, 8k, masterpiece", "b") for each in trained]
    made = {each.check.name: each.check for each in compare_prompts(trained, others, POLICY)}
    assert list(made) == ["characters", "words", "new words", "categories", "text domain", "embeddings"]
    # Every reference prompt has 7 words, and the classifier leaves out what half of all prompts have in common.
    assert {name for name, each in made.items() if not each.drifted} == {"words", "text domain"}
    assert made["new words"].value == pytest.approx(6 / 13)
    again = [each.check for each in compare_prompts(trained, trained, POLICY)]
    assert [each.name for each in again if each.drifted is None] == ["words", "categories"]
    assert not any(each.drifted for each in again)


@pytest.mark.parametrize(
    ("trained", "arriving", "name", "reason"),
    [
        (prompts_of(COLOURS), [], "words", "60 in the reference and 0 now, 20 wanted on each side"),
        ([], prompts_of(COLOURS), "embeddings", "0 in the reference and 60 now, 20 wanted on each side"),
        (
            [Prompt(f"cat {n:03}", "") for n in range(60)],
            prompts_of(COLOURS),
            "words",
            "every value .* is 2: no spread",
        ),
        (prompts_of(COLOURS, "a"), prompts_of(COLOURS), "categories", "60 with a category in the reference and 0 now"),
        (prompts_of(COLOURS), prompts_of(COLOURS, "a"), "categories", "0 with a category in the reference and 60 now"),
        (prompts_of(COLOURS, "a"), prompts_of(COLOURS, "a"), "categories", "all prompts are of one category, 'a'"),
        ([Prompt(f"{n}", f"{n}") for n in range(60)], prompts_of(COLOURS, "a"), "categories", "61 categories are too"),
        (
            [Prompt("!" * n, "") for n in range(1, 61)],
            [Prompt("?" * n, "") for n in range(1, 61)],
            "embeddings",
            "no w",
        ),
    ],
)
def test_a_check_that_cannot_be_made_says_why(
    trained: list[Prompt], arriving: list[Prompt], name: str, reason: str
) -> None:
    [found] = [each.check for each in compare_prompts(trained, arriving, POLICY) if each.check.name == name]
    assert (found.value, found.drifted) == (None, None)
    assert re.match(f"not enough data: .*{reason}", found.reason)


def test_rewards_are_compared_where_both_tables_have_them() -> None:
    draw = np.random.default_rng(0)
    release = pd.DataFrame({"hps": draw.normal(0.3, 0.02, 50), "old": 0.0, "flat": 1.0})
    now = pd.DataFrame({"hps": release["hps"] - 0.01, "flat": 2.0, "new": draw.normal(size=50)})
    now.loc[0, "hps"] = math.nan
    made = {each.check.name: each.check for each in compare_scores(release, now, POLICY)}
    assert made["reward hps"].drifted
    assert made["reward hps"].value == pytest.approx(0.01 / release["hps"].std(ddof=0), rel=0.1)
    assert "50 in the reference and 0 now" in made["reward old"].reason
    assert "every value of the reference is 1" in made["reward flat"].reason
    assert "0 in the reference and 50 now" in made["reward new"].reason
    [empty] = compare_scores(pd.DataFrame(), pd.DataFrame(), POLICY)
    assert empty.check.reason == "not enough data: neither table has a column with scores"


@pytest.mark.parametrize(
    ("checks", "min_drifted", "outcome"),
    [
        ([check(drifted=True), check(drifted=False)], 1, "drifted"),
        ([check(drifted=True), check(drifted=False)], 2, "stable"),
        ([check(drifted=False), check(drifted=None)], 1, "stable"),
        ([check(drifted=None), check(drifted=None)], 1, "not enough data"),
        ([check(drifted=False), check(drifted=None, subject="rewards")], 1, "not enough data"),
        ([check(drifted=None), check(drifted=False, subject="rewards")], 1, "not enough data"),
        ([check(drifted=None), check(drifted=True, subject="rewards")], 1, "drifted"),
        ([], 1, "not enough data"),
    ],
)
def test_the_outcome_follows_from_the_checks(checks: list[DriftCheck], min_drifted: int, outcome: str) -> None:
    assert outcome_of(checks, min_drifted)[0] == outcome
    assert outcome_of(list(reversed(checks)), min_drifted)[0] == outcome


def test_only_a_drift_is_a_reason_to_train_anew() -> None:
    assert verdict(check(drifted=True)).retrain
    assert not verdict(check(drifted=False)).retrain
    assert not verdict(check(drifted=None)).retrain


def test_what_drifted_is_told_first() -> None:
    names = [each.name for each in in_order([check("c", None), check("b", False), check("a", True)])]
    assert names == ["a", "b", "c"]


def test_what_users_write_cannot_become_markup() -> None:
    found = verdict(check(EVIL, drifted=True), incoming=observed(f"{EVIL}[link](x)|"))
    for shown in (as_html(found), as_markdown(found)):
        assert "<img" not in shown
        assert "&lt;img" in shown
    assert "[link](x)" not in as_markdown(found)
    assert as_markdown(found).startswith("# Drifted\n\n1 of 1 checks drifted")


def test_samples_and_refused_records_are_told() -> None:
    line = in_words(verdict(check(), incoming=observed(count=90, used=20, problems={"empty": 3})))[-1]
    assert "(90 in 1 file, sha256 ab), of which a sample of 20 by a fixed seed was compared" in line
    assert line.endswith("not taken: 3 empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_promts": 3}, r"min_promts: no such key; did you mean min_prompts\?"),
        ({"max_prompts": 50}, "max_prompts: 50 is less than min_prompts, 200"),
        ({"thresholds": {}}, "thresholds={}: holds no threshold: give one of characters"),
        ({"thresholds": {"text_domain": 0.5}}, "thresholds.text_domain=0.5: .*greater than 0.5"),
        ({"min_drifted": 0}, "min_drifted=0: .*greater than or equal to 1"),
        (
            {"min_drifted": 2, "thresholds": {"words": 0.4}},
            "min_drifted: 2 can never be reached by 1 check, one for each threshold .*; lower it, or give more",
        ),
    ],
)
def test_a_policy_is_checked(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "policy.yaml"
    shipped = MonitorPolicy.read("configs/monitor.yaml").model_dump()
    path.write_text(yaml.safe_dump(shipped | change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        MonitorPolicy.read(path)


@settings(max_examples=12)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=40), min_size=2, max_size=2
    ),
    st.sampled_from(["", "red ", "the a of ", "1 "]),
)
def test_whatever_comes_in_leads_to_a_verdict(sides: list[list[str]], common: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.jsonl" for name in ("reference", "incoming")]
        for path, texts in zip(paths, sides, strict=True):
            rows = [{"text": f"{common}{text} {number}", "category": text[:1]} for number, text in enumerate(texts * 2)]
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY.model_dump_json(), encoding="utf-8")
        found, _ = judge(str(paths[0]), str(paths[1]), "", "", str(policy))
        assert DriftVerdict.read(found.manifest().encode(), "", fix="") == found
        assert all(math.isfinite(each.value) for each in found.checks if each.value is not None)


def test_the_step_tells_a_drift_of_rewards_alone(tmp_path: Path) -> None:
    trained = tmp_path / "trained.jsonl"
    rows = [{"text": f"a {one} and a {other}, view {n}"} for one in THINGS for other in THINGS for n in range(6)]
    trained.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    release = pd.DataFrame({"image": "i", "prompt": "p", "category": "", "hps": np.linspace(0, 1, 300), "problem": ""})
    release.to_csv(tmp_path / "release.csv", index=False)
    now = {"contestant": ["candidate", "base"] * 300, "prompt": "p", "category": "", "picture": 0, "image": "i"}
    pd.DataFrame(now | {"hps": np.linspace(0.2, 1.2, 600)}).to_parquet(tmp_path / "now.parquet")

    made = {name: kind(name, str(tmp_path / "out" / name)) for name, kind in OUTPUTS.items()}
    given = {"reference": str(trained), "incoming": str(trained), "policy": "configs/monitor.yaml", "force": False}
    tables = {"scores": str(tmp_path / "now.parquet"), "release_scores": str(tmp_path / "release.csv")}
    assert component.python_func(**given, **tables, **made) is True
    found = DriftVerdict.load(tmp_path / "out/verdict")
    assert made["verdict"].metadata == found.model_dump(mode="json")
    assert [each.name for each in found.checks if each.drifted] == ["reward hps"]
    assert found.scores is not None
    assert found.scores.count == 300
    assert made["metrics"].metadata["reward_hps"] == pytest.approx(0.2 / release["hps"].std(ddof=0), rel=0.01)
    assert (tmp_path / "out/page").read_bytes() == (tmp_path / "out/verdict/report.html").read_bytes()
    assert (tmp_path / "out/summary").read_text(encoding="utf-8").startswith("# Drifted\n")


def test_more_drifted_checks_than_there_are_rewards_for_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trained.txt").write_text("a cat\na dog\n", encoding="utf-8")
    (tmp_path / "scores.csv").write_text("image,hps,aesthetic\na,0.1,5\n", encoding="utf-8")
    thresholds = {"words": 0.4, "rewards": 0.35}
    shipped = MonitorPolicy.read("configs/monitor.yaml").model_dump()
    trained, scores = str(tmp_path / "trained.txt"), str(tmp_path / "scores.csv")
    for min_drifted in (3, 4):
        path = tmp_path / f"{min_drifted}.yaml"
        path.write_text(yaml.safe_dump(shipped | {"min_drifted": min_drifted, "thresholds": thresholds}), "utf-8")
    assert len(judge(trained, trained, scores, scores, str(tmp_path / "3.yaml"))[0].checks) == 3
    with pytest.raises(UserError, match=r"policy .*4\.yaml: min_drifted: 4 can never be reached by 3 checks"):
        judge(trained, trained, scores, scores, str(tmp_path / "4.yaml"))
    with pytest.raises(UserError, match=r"policy .*3\.yaml: min_drifted: 3 can never be reached by 1 check,"):
        judge(trained, trained, "", "", str(tmp_path / "3.yaml"))


def test_an_empty_window_is_not_enough_data(tmp_path: Path) -> None:
    source = tmp_path / "trained.txt"
    source.write_text("\n".join(each.text for each in prompts_of(COLOURS)), encoding="utf-8")
    (tmp_path / "window").mkdir()
    found, made = judge(str(source), str(tmp_path / "window"), "", "", "configs/monitor.yaml")
    assert found.outcome == "not enough data"
    assert "60 in the reference and 0 now, 200 wanted on each side" in found.reason
    assert not any(each.measured for each in made)
    assert "<h1>Not enough data</h1>" in render(as_html(found), [])


def test_each_outcome_has_an_exit_code_of_its_own_and_none_is_that_of_a_fault() -> None:
    assert EXIT_CODES.keys() == set(get_args(DriftOutcome))
    assert len({*EXIT_CODES.values(), 1, 2}) == 5

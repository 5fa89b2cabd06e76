"""The gate as a table of numbers, and what holds for any numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import dsl

from components.decide.run import decide_report
from drtune.contracts import Decision, Score
from drtune.errors import UserError
from drtune.files import sha256_file
from drtune.gate import Policy, RewardRules, decide, load_policy
from tests.reports import report_of, score

SHIPPED = Path(__file__).parents[2] / "configs" / "gate.yaml"
NAN = math.nan


def verdict(rules: RewardRules, *scores: Score) -> bool:
    return decide(report_of(*scores), Policy(min_prompts=1, rewards={"symmetry": rules})).publish


@pytest.mark.parametrize(
    ("rules", "given_score", "publish"),
    [
        (RewardRules(min_gain=0.10), score(gain=0.25, margin=0.03), True),
        (RewardRules(min_gain=0.10), score(gain=0.12, margin=0.03), False),
        (RewardRules(min_gain=0.25), score(gain=0.50, margin=0.25), True),  # the interval begins at the bound
        (RewardRules(min_gain=0.0), score(gain=-0.01, margin=0.0), False),
        (RewardRules(min_gain=0.10), score(gain=NAN), False),
        (RewardRules(max_drop=0.02), score(gain=-0.01, margin=0.5), True),  # the mean counts
        (RewardRules(max_drop=0.02), score(gain=-0.02), True),
        (RewardRules(max_drop=0.02), score(gain=-0.021), False),
        (RewardRules(max_drop=0.0), score(gain=0.0), True),
        (RewardRules(max_drop=0.02), score(gain=NAN), False),
        (RewardRules(min_win_rate=0.75), score(win_rate=1.0, margin=0.25), True),
        (RewardRules(min_win_rate=0.75), score(win_rate=0.76, margin=0.02), False),
        (RewardRules(min_win_rate=0.5), score(win_rate=NAN), False),
        (RewardRules(max_drop_in_category=0.1), score(gain=-0.2), False),  # no categories: all prompts are one
        (RewardRules(min_gain=0.10, min_win_rate=0.95), score(gain=0.25, win_rate=0.9), False),  # every rule must hold
    ],
)
def test_each_rule_reads_its_number(rules: RewardRules, given_score: Score, publish: bool) -> None:
    assert verdict(rules, given_score) is publish


@pytest.mark.parametrize(("photo", "publish"), [(-0.1, True), (-0.11, False), (NAN, False)])
def test_the_worst_category_decides(photo: float, publish: bool) -> None:
    scores = [score(gain=0.5), score(gain=0.9, category="anime"), score(gain=photo, category="photo")]
    assert verdict(RewardRules(max_drop_in_category=0.1), *scores) is publish
    assert verdict(RewardRules(max_drop_in_category=0.1), scores[0], scores[2], scores[1]) is publish


def test_shipped_policy_publishes_the_intended_run_and_refuses_reward_hacking() -> None:
    policy = load_policy(SHIPPED)
    assert decide(report_of(score(gain=0.27), score("preference", gain=-0.01)), policy).publish
    assert not decide(report_of(score(gain=0.27), score("preference", gain=-0.08)), policy).publish
    assert not decide(report_of(score(gain=0.27), score("preference", gain=0.1), num_prompts=63), policy).publish


def test_reasons_hold_the_numbers_and_the_failed_ones_come_first() -> None:
    policy = load_policy(SHIPPED)
    decision = decide(report_of(score(gain=0.27), score("preference", gain=-0.0812)), policy)
    assert decision.reasons == (
        "failed: preference: mean gain -0.0812, at least -0.02 wanted",
        "passed: 100 prompts, at least 64 wanted",
        "passed: symmetry: gain 0.2700 (95 % interval 0.2400 to 0.3000), at least 0.1 wanted at its low end",
    )


def test_a_reward_that_the_report_lacks_fails() -> None:
    decision = decide(report_of(score(gain=0.27)), load_policy(SHIPPED))
    assert not decision.publish
    assert decision.reasons[0] == "failed: preference: not in the report; add it to evaluation.rewards"


numbers = st.floats(-1, 1)


@settings(deadline=None)
@given(
    worse=st.tuples(numbers, st.floats(0, 1), st.floats(0, 1)),
    better_by=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    rules=st.builds(
        RewardRules,
        min_gain=numbers,
        max_drop=st.none() | st.floats(0, 1),
        min_win_rate=st.none() | st.floats(0, 1),
        max_drop_in_category=st.none() | st.floats(0, 1),
    ),
)
def test_a_better_candidate_is_never_refused_where_a_worse_one_passed(
    worse: tuple[float, float, float], better_by: tuple[float, float], rules: RewardRules
) -> None:
    gain, margin, win_rate = worse
    more_gain, more_wins = better_by
    passed = verdict(rules, score(gain=gain, margin=margin, win_rate=win_rate))
    better = verdict(rules, score(gain=gain + more_gain, margin=margin, win_rate=win_rate + more_wins))
    assert better or not passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_prompts: 64\nrewards: {symmetry: {min_gains: 0.1}}", r"rewards\.symmetry\.min_gains: Extra inputs"),
        ("rewards: {symmetry: {min_gain: 0.1}}", "min_prompts: Field required"),
        ("min_prompts: 64\nrewards: {}", "rewards: Dictionary should have at least 1 item"),
        ("min_prompts: 64\nrewards: {symmetry: {}}", "holds no rule: give one of min_gain"),
        ("min_prompts: 64\nrewards: {symmetry: {max_drop: -0.1}}", "greater than or equal to 0"),
        ("min_prompts: 64\nrewards: {symmetry: {min_gain: .nan}}", "finite number"),
        ("rewards: [", "not valid YAML"),
        ("", "the file: Input should be a valid dictionary"),
    ],
)
def test_a_policy_that_says_nothing_clear_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        load_policy(path)
    assert "\n" not in str(raised.value)


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file"):
        load_policy(tmp_path / "none.yaml")


def test_the_step_writes_the_decision_and_the_numbers_of_all_prompts(tmp_path: Path) -> None:
    report_of(score(gain=0.27), score("preference", gain=0.01), score(gain=0.5, category="photo")).save(
        tmp_path / "report"
    )
    report = dsl.Artifact(uri=str(tmp_path / "report"))
    decision, metrics = dsl.Artifact(uri=str(tmp_path / "decision")), dsl.Metrics(uri=str(tmp_path / "metrics"))
    assert decide_report(report, str(SHIPPED), decision, metrics) is True
    assert Decision.load(tmp_path / "decision").report_sha256 == sha256_file(tmp_path / "report" / "manifest.json")
    assert metrics.metadata == {
        "symmetry_gain": 0.27,
        "symmetry_win_rate": 0.9,
        "preference_gain": 0.01,
        "preference_win_rate": 0.9,
    }

"""The gate's rule on what base and candidate can draw: non-inferiority, by a margin."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtune.config import load_config
from drtune.contracts import Capability
from drtune.errors import UserError
from drtune.evaluation.capability.shares import pooled, score_of
from drtune.publishing.gate import decide
from drtune.publishing.policy import CapabilityRules, Policy, Rules, refuse_unmeasured
from tests.reports import report_of, score


def capability(**counts: tuple[int, int]) -> Capability:
    """Of 40 prompts a category, so many were gained and lost."""
    scores = [score_of(name, 40, base=0.8, gained=gained, lost=lost) for name, (gained, lost) in counts.items()]
    return Capability(judge="probe", provenance="", scores=(pooled(scores), *scores), lost=())


def policy_of(rules: CapabilityRules) -> Policy:
    return Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, capability=rules)


def refused(found: Capability | None, rules: CapabilityRules) -> list[str]:
    decision = decide(report_of(score(), capability=found), policy_of(rules))
    return [check.reason for check in decision.checks if not check.passed]


MIXED = capability(colors=(0, 1), counting=(1, 0), position=(0, 30))


@pytest.mark.parametrize(
    ("found", "rules", "reasons"),
    [
        (capability(colors=(0, 0), counting=(0, 0)), CapabilityRules(margin=0.05), []),
        (
            MIXED,
            CapabilityRules(margin=0.2),
            [
                "capability: right on 55 % of 120 prompts, the base on 80 %; difference -0.2500 (95 % interval -0.3288 "
                "to -0.1630), above -0.2 wanted at its low end"
            ],
        ),
        (MIXED, CapabilityRules(margin=0.2, without=("position",)), []),
        (
            MIXED,
            CapabilityRules(margin=0.04, without=("position",)),
            [
                "capability without position: right on 80 % of 80 prompts, the base on 80 %; difference 0.0000 (95 % "
                "interval -0.0478 to 0.0478), above -0.04 wanted at its low end"
            ],
        ),
        (
            MIXED,
            CapabilityRules(margin=0.2, without=("places",)),
            ["capability: places cannot be left out of what the report has: colors, counting, position"],
        ),
        (
            capability(colors=(0, 0)),
            CapabilityRules(margin=0.2, without=("colors",)),
            ["capability: colors cannot be left out of what the report has: colors"],
        ),
        (  # a judge who says no to everything
            Capability(judge="probe", provenance="", scores=(score_of(None, 120, base=0, gained=0, lost=0),), lost=()),
            CapabilityRules(margin=0.05),
            [
                "capability: the base is right on 0 % of 120 prompts, no more than the margin 0.05: no loss could "
                "show; lower capability.margin, or give prompts that the base can draw"
            ],
        ),
        (
            None,
            CapabilityRules(margin=0.2),
            ["capability: not in the report; set evaluation.capability.prompts"],
        ),
    ],
)
def test_the_low_end_of_the_difference_must_lie_above_the_margin(
    found: Capability | None, rules: CapabilityRules, reasons: list[str]
) -> None:
    assert refused(found, rules) == reasons


def test_on_a_handful_of_prompts_nothing_is_said_and_so_it_does_not_pass() -> None:
    few = Capability(judge="probe", provenance="", scores=(score_of(None, 7, base=1.0, gained=0, lost=0),), lost=())
    assert refused(few, CapabilityRules(margin=0.9))[0].endswith(
        "(95 % interval nan to nan), above -0.9 wanted at its low end"
    )


@given(
    counts=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=2, max_size=2),
    better_by=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 15)), min_size=2, max_size=2),
    margin=st.floats(0.01, 0.9),
    without=st.sampled_from([(), ("colors",)]),
)
def test_a_candidate_that_can_do_more_is_never_refused_where_one_that_can_do_less_passed(
    counts: list[tuple[int, int]], better_by: list[tuple[int, int]], margin: float, without: tuple[str, ...]
) -> None:
    rules = CapabilityRules(margin=margin, without=without)
    better = [
        (gained + more, max(lost - less, 0)) for (gained, lost), (more, less) in zip(counts, better_by, strict=True)
    ]
    worse_found, better_found = (
        capability(**dict(zip(("colors", "counting"), c, strict=True))) for c in (counts, better)
    )
    assert not refused(better_found, rules) or refused(worse_found, rules)


def test_a_rule_on_what_will_not_be_drawn_is_refused_before_a_training(tmp_path: Path) -> None:
    policy = policy_of(CapabilityRules(margin=0.1))
    refuse_unmeasured(policy, load_config(None, []))
    refuse_unmeasured(policy, load_config(None, ["base_model=other", "evaluation.capability.prompts=60"]))
    refuse_unmeasured(policy, load_config(None, ["base_model=other", "evaluation.capability.file=geneval.jsonl"]))
    for override in ("base_model=other", "evaluation.capability.prompts=0"):
        with pytest.raises(UserError, match="policy: capability is not measured, since this run draws no"):
            refuse_unmeasured(policy, load_config(None, [override]))
    path = tmp_path / "gate.yaml"
    path.write_text("min_prompts: 64\nagainst: {base: {a: {min_gain: 0}}}\ncapability: {margin: 0}")
    with pytest.raises(UserError, match=r"capability\.margin=0: Input should be greater than 0"):
        Policy.read(path)

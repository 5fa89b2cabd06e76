"""The gate as a table of numbers, and what holds for any numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtune.config import load_config
from drtune.contracts import LOOKS, Agreement, ScaleCurve, Score
from drtune.errors import UserError
from drtune.publishing.gate import decide
from drtune.publishing.policy import Limits, Policy, Rules, StudyRules, refuse_unmeasured
from tests.reports import point_of, report_of, score, standing, study_of

NAN = math.nan


def verdict(rules: Rules, *scores: Score, opponent: str = "base") -> bool:
    return decide(report_of(*scores), Policy(min_prompts=8, against={opponent: {"symmetry": rules}})).publish


@pytest.mark.parametrize(
    ("rules", "given_score", "publish"),
    [
        (Rules(min_gain=0.10), score(gain=0.25, margin=0.03), True),
        (Rules(min_gain=0.10), score(gain=0.12, margin=0.03), False),
        (Rules(min_gain=0.25), score(gain=0.50, margin=0.25), True),  # the interval begins at the bound
        (Rules(min_gain=0.0), score(gain=-0.01, margin=0.0), False),
        (Rules(min_gain=0.10), score(gain=NAN), False),
        (Rules(max_drop=0.02), score(gain=-0.01, margin=0.5), True),  # the mean counts
        (Rules(max_drop=0.02), score(gain=-0.02), True),
        (Rules(max_drop=0.02), score(gain=-0.021), False),
        (Rules(max_drop=0.0), score(gain=0.0), True),
        (Rules(max_drop=0.02), score(gain=NAN), False),
        (Rules(min_win_rate=0.75), score(win_rate=1.0, margin=0.25), True),
        (Rules(min_win_rate=0.75), score(win_rate=0.76, margin=0.02), False),
        (Rules(min_win_rate=0.5), score(win_rate=NAN), False),
        (Rules(max_drop_in_category=0.1), score(gain=-0.2), False),  # no categories: all prompts are one
        (Rules(min_gain=0.10, min_win_rate=0.95), score(gain=0.25, win_rate=0.9), False),  # every rule must hold
    ],
)
def test_each_rule_reads_its_number(rules: Rules, given_score: Score, publish: bool) -> None:
    assert verdict(rules, given_score) is publish


@pytest.mark.parametrize(("photo", "publish"), [(-0.1, True), (-0.11, False), (NAN, False)])
def test_the_worst_category_decides(photo: float, publish: bool) -> None:
    scores = [score(gain=0.5), score(gain=0.9, category="anime"), score(gain=photo, category="photo")]
    assert verdict(Rules(max_drop_in_category=0.1), *scores) is publish
    assert verdict(Rules(max_drop_in_category=0.1), scores[0], scores[2], scores[1]) is publish


def test_rules_hold_against_the_opponent_that_they_name() -> None:
    scores = [score(gain=0.5), score(gain=-0.1, opponent="champion"), score(gain=0.1, opponent="midjourney")]
    assert verdict(Rules(min_gain=0.4), *scores)
    assert not verdict(Rules(min_gain=0.0), *scores, opponent="champion")
    assert verdict(Rules(min_gain=0.05), *scores, opponent="midjourney")
    photo = score(gain=-0.9, category="photo", opponent="midjourney")
    assert verdict(Rules(max_drop_in_category=0.1), *scores, photo)
    assert not verdict(Rules(max_drop_in_category=0.1), *scores, photo, opponent="midjourney")


def test_only_a_champion_may_be_absent_and_it_is_said() -> None:
    assert verdict(Rules(min_gain=0.1), score(), opponent="champion")
    policy = Policy(min_prompts=8, against={name: {"symmetry": Rules(min_gain=0.1)} for name in ("champion", "mj")})
    assert decide(report_of(score()), policy).reasons == (
        "failed: mj: not in the report; give the evaluation --reference mj=FOLDER",
        "passed: 100 prompts, at least 8 wanted",
        "passed: champion: the report has none, so there is nothing to beat",
    )


@pytest.mark.parametrize(
    ("opponents", "has_one", "is_unopposed"),
    [({"champion"}, False, True), ({"champion"}, True, False), ({"base"}, False, False), ({"base"}, True, False)],
)
def test_a_decision_knows_that_the_champion_it_asks_for_was_not_there(
    opponents: set[str], has_one: bool, is_unopposed: bool
) -> None:
    scores = [score(), *([score(opponent="champion")] if has_one else [])]
    policy = Policy(min_prompts=8, against={name: {"symmetry": Rules(min_gain=0.0)} for name in opponents})
    assert decide(report_of(*scores), policy).is_unopposed is is_unopposed


def looks(**effects: float) -> list[Score]:
    return [score(name, effect=effects.get(name, 0.0)) for name in LOOKS]


def limited(limits: Limits, *scores: Score, drift: float | None = None) -> list[str]:
    """The reasons why a good gain in symmetry is refused by the limits."""
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, limits=limits)
    standings = [] if drift is None else [standing("drift", drift)]
    decision = decide(report_of(score(), *scores, standings=standings), policy)
    return [check.reason for check in decision.checks if not check.passed]


@pytest.mark.parametrize(
    ("limits", "scores", "refused"),
    [
        (Limits(max_held_out_drop=0.5), [score("hps", effect=-0.5)], []),
        (
            Limits(max_held_out_drop=0.5),
            [score("hps", effect=-0.51), score("pickscore", effect=3.0)],
            ["hps, not tuned on: gain -0.51 deviations, at least -0.5 wanted"],
        ),
        (
            Limits(max_held_out_drop=0.5),
            [],
            ["held-out rewards: the report has none; add one that was not tuned on to evaluation.rewards"],
        ),
        (Limits(min_diversity=0.8), [score("diversity_within", gain=-0.1), score("diversity_across", gain=0)], []),
        (
            Limits(min_diversity=0.8),
            [score("diversity_within", gain=0.1), score("diversity_across", gain=-0.2)],
            ["diversity_across: 60 % of the base's, at least 80 % wanted"],
        ),
        (
            Limits(min_diversity=0.8),
            [score("diversity_across", gain=0)],  # of one picture a prompt
            [
                "diversity_within: not in the report; set evaluation.features, and evaluation.pictures_per_prompt to 2 "
                "or more"
            ],
        ),
        (Limits(max_drift=0.3), [], ["drift: not in the report; set evaluation.features"]),
        (Limits(max_look_change=1.0), looks(luminance=1.0, saturation=-1.0), []),
        (
            Limits(max_look_change=1.0),
            looks(saturation=-1.01),
            ["saturation: moved by -1.01 deviations, at most 1 either way wanted"],
        ),
        (
            Limits(max_look_change=1.0),
            looks(luminance=NAN),
            ["luminance: moved by +nan deviations, at most 1 either way wanted"],
        ),
        (
            Limits(max_look_change=1.0),
            looks()[1:],
            ["luminance: not in the report; evaluate again"],
        ),
    ],
)
def test_each_limit_reads_its_number(limits: Limits, scores: list[Score], refused: list[str]) -> None:
    assert limited(limits, *scores) == refused


def test_drift_has_a_ceiling() -> None:
    assert limited(Limits(max_drift=0.3), drift=0.3) == []
    assert limited(Limits(max_drift=0.3), drift=0.31) == ["drift: 0.310 from the base, at most 0.3 wanted"]


def test_cmmd_has_a_ceiling() -> None:
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, limits=Limits(max_cmmd=0.5))
    verdicts = [decide(report_of(score(), standings=[standing("cmmd", one)]), policy).publish for one in (0.5, 0.6)]
    assert verdicts == [True, False]
    assert decide(report_of(score()), policy).reasons[0] == "failed: cmmd: not in the report; set evaluation.features"


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        (Limits(min_all_rise=0.4, max_only_trained=0.2), []),
        (Limits(min_all_rise=0.5), ["all rewards rose on 40 % of the prompts, at least 50 % wanted"]),
        (Limits(max_only_trained=0.1), ["only those tuned on rose on 20 % of the prompts, at most 10 % wanted"]),
    ],
)
def test_what_rewards_agree_on_can_be_asked_for(limits: Limits, refused: list[str]) -> None:
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, limits=limits)
    agreed = Agreement(opponent="base", num_prompts=100, all_rise=0.4, only_trained=0.2)
    decision = decide(report_of(score(), agreements=[agreed]), policy)
    assert [check.reason for check in decision.checks if not check.passed] == refused
    absent = decide(report_of(score(), agreements=[agreed.model_copy(update={"opponent": "mj"})]), policy)
    assert absent.reasons[0].startswith("failed: agreement of rewards: not in the report; add one that was not tuned")


def diversity(across: float) -> list[Score]:
    return [score("diversity_within", gain=0.0), score("diversity_across", gain=across)]


STRENGTHS = ScaleCurve(
    num_prompts=20,
    points=(
        point_of(0, score(gain=0.0, margin=0)),
        point_of(0.5, score(gain=0.15)),
        point_of(1, score(gain=0.3), *diversity(-0.2)),
        point_of(1.25, score(gain=0.4), *diversity(-0.3)),
    ),
)


@pytest.mark.parametrize(
    ("limits", "scales", "refused", "pick"),
    [
        (Limits(), (0.5, 1.25), [], "would pick 1.25 of the adapter's strength, where symmetry gains 0.400"),
        (Limits(min_diversity=0.5), (1,), [], "would pick 1 of"),
        (
            Limits(min_diversity=0.5),
            (1.25,),
            ["at 1.25 of the adapter's strength: diversity_across: 40 % of the base's, at least 50 % wanted"],
            "hold at 1.",
        ),
        (Limits(min_diversity=0.9), (0.75,), None, "would pick no strength of the adapter: its rules hold at none."),
    ],
)
def test_the_rules_can_be_asked_for_at_other_strengths_of_the_adapter(
    limits: Limits, scales: tuple[float, ...], refused: list[str] | None, pick: str
) -> None:
    rules = {"base": {"symmetry": Rules(min_gain=0.1)}, "mj": {"symmetry": Rules(min_gain=0.1)}}
    policy = Policy(min_prompts=64, against=rules, limits=limits, scales=scales)
    report = report_of(score(), score(opponent="mj"), *diversity(0.0), scale_curve=STRENGTHS)
    decision = decide(report, policy)
    failed = [check.reason for check in decision.checks if not check.passed]
    assert failed == (
        ["at 0.75 of the adapter's strength: not in the report; set evaluation.scale_curve"]
        if refused is None
        else refused
    )
    assert decision.pick.startswith("On the curve's 20 prompts the policy ")
    assert pick in decision.pick


def test_a_policy_on_strengths_that_will_not_be_drawn_is_refused_before_a_training() -> None:
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, scales=(0.8, 1))
    refuse_unmeasured(policy, load_config(None, ["evaluation.scale_curve.scales=[0.8]"]))
    for override in (
        "evaluation.scale_curve.prompts=0",
        "weights=full",
        "base_model=other",
        "evaluation.scale_curve.scales=[0.5]",
    ):
        with pytest.raises(UserError, match=r"scales holds 0\.8, at which this run will not draw"):
            refuse_unmeasured(policy, load_config(None, [override]))


def test_reasons_hold_the_numbers_and_the_failed_ones_come_first() -> None:
    policy = Policy(
        min_prompts=64,
        against={"base": {"symmetry": Rules(min_gain=0.1), "preference": Rules(max_drop=0.02)}},
    )
    decision = decide(report_of(score(gain=0.27), score("preference", gain=-0.0812)), policy)
    assert decision.reasons == (
        "failed: preference against base: mean gain -0.0812, at least -0.02 wanted",
        "passed: 100 prompts, at least 64 wanted",
        "passed: symmetry against base: gain 0.2700 (95 % interval 0.2400 to 0.3000), "
        "at least 0.1 wanted at its low end",
    )
    assert not decide(report_of(score(gain=0.27), score("preference"), num_prompts=63), policy).publish


def test_a_reward_that_the_report_lacks_fails() -> None:
    policy = Policy(min_prompts=8, against={"base": {"preference": Rules(max_drop=0.02)}})
    decision = decide(report_of(score(gain=0.27)), policy)
    assert decision.reasons[0] == "failed: preference against base: not in the report; add it to evaluation.rewards"


@pytest.mark.parametrize(
    ("rules", "reasons"),
    [
        (StudyRules(min_win_rate=0.55, min_votes=60, min_raters=3), []),
        (
            StudyRules(min_win_rate=0.56, min_votes=61, min_raters=4),
            [
                "people against base: win rate 0.6500 (95 % interval 0.5500 to 0.7500), "
                "at least 0.56 wanted at its low end",
                "people against base: 60 votes, at least 61 wanted",
                "people against base: 3 raters, at least 4 wanted",
            ],
        ),
        (StudyRules(opponent="mj"), ["study: nobody compared the candidate with mj"]),
    ],
)
def test_people_can_be_asked(rules: StudyRules, reasons: list[str]) -> None:
    report = report_of(score())
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, study=rules)
    study = study_of(report)
    decision = decide(report, policy, study)
    assert [check.reason for check in decision.checks if not check.passed] == reasons
    assert decision.study_sha256 == study.manifest_sha256


def test_a_study_that_is_wanted_must_be_there_and_be_of_the_same_report() -> None:
    report = report_of(score())
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, study=StudyRules())
    assert "none was given" in decide(report, policy).reasons[0]
    with pytest.raises(UserError, match="is of another report"):
        decide(report, policy, study_of(report_of(score(gain=0.2))))
    with pytest.raises(UserError, match="the policy has no section `study`"):
        decide(report, policy.model_copy(update={"study": None}), study_of(report))


def test_a_comparison_on_a_few_common_prompts_publishes_nothing() -> None:
    report = report_of(score(), score(opponent="mj", num_prompts=3, margin=0.0))
    policy = Policy(min_prompts=8, against={"mj": {"symmetry": Rules(min_gain=0.1)}})
    assert decide(report, policy).reasons[0] == "failed: symmetry against mj: 3 common prompts, at least 8 wanted"


def test_a_category_of_a_few_prompts_refuses_nothing_by_itself() -> None:
    scores = [score(gain=0.5), score(gain=0.9, category="anime"), score(gain=-0.3, category="photo", num_prompts=9)]
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(max_drop_in_category=0.1)}})
    assert not decide(report_of(*scores), policy).publish
    decision = decide(report_of(*scores), policy.model_copy(update={"min_prompts_in_category": 10}))
    assert decision.publish
    assert decision.reasons[1] == (
        "passed: symmetry against base: mean gain 0.9000 in category 'anime', the worst, at least -0.1 wanted; "
        "1 with too few prompts not judged"
    )


def test_what_is_not_known_of_chance_passes_no_rule() -> None:
    unknown = dict.fromkeys(("gain_low", "gain_high", "win_low", "win_high", "effect", "p_value"))
    scores = [score(name).model_copy(update=unknown) for name in ("symmetry", "hps", *LOOKS)]
    rules, limits = Rules(min_gain=-1, min_win_rate=0), Limits(max_held_out_drop=9, max_look_change=9)
    policy = Policy(min_prompts=8, against={"base": {"symmetry": rules}}, limits=limits)
    assert [check.passed for check in decide(report_of(*scores), policy).checks] == [False] * 7 + [True]


def test_a_policy_on_rewards_that_will_not_be_measured_is_refused_before_a_training() -> None:
    rules = {"base": {"symmetry": Rules(min_gain=0.1)}, "champion": {"pickscore": Rules(max_drop=0.1)}}
    policy = Policy(min_prompts=8, against=rules)
    config = load_config(None, ["evaluation.rewards=[preference]"])
    with pytest.raises(UserError, match=r"against\.champion\.pickscore is not among .* \(preference, symmetry\)"):
        refuse_unmeasured(policy, config)
    refuse_unmeasured(policy, load_config(None, ["evaluation.rewards=[pickscore]"]))


@pytest.mark.parametrize(
    ("limits", "override", "message"),
    [
        (Limits(max_cmmd=0.5), "evaluation.features=none", r"limits\.max_cmmd is not measured with"),
        (Limits(min_all_rise=0.5), "evaluation.rewards=[symmetry]", r"limits\.min_all_rise needs a reward that is not"),
        (Limits(min_diversity=0.5), "evaluation.pictures_per_prompt=1", r"limits\.min_diversity is of the pictures of"),
    ],
)
def test_limits_on_what_will_not_be_measured_are_refused_before_a_training(
    limits: Limits, override: str, message: str
) -> None:
    policy = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, limits=limits)
    with pytest.raises(UserError, match=message):
        refuse_unmeasured(policy, load_config(None, [override]))
    refuse_unmeasured(policy, load_config(None, []))


numbers = st.floats(-1, 1)
optional = st.none() | st.floats(0, 1)


@given(
    worse=st.tuples(numbers, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    better_by=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    rules=st.builds(Rules, min_gain=numbers, max_drop=optional, min_win_rate=optional, max_drop_in_category=optional),
    limits=st.builds(
        Limits,
        max_held_out_drop=optional,
        min_diversity=optional,
        max_drift=optional,
        max_cmmd=optional,
        min_all_rise=optional,
        max_only_trained=optional,
    ),
)
def test_a_better_candidate_is_never_refused_where_a_worse_one_passed(
    worse: tuple[float, float, float, float],
    better_by: tuple[float, float, float],
    rules: Rules,
    limits: Limits,
) -> None:
    gain, margin, win_rate, drift = worse
    more, more_wins, less_drift = better_by
    against = {name: {"symmetry": rules} for name in ("base", "champion")}
    policy = Policy(min_prompts=8, against=against, limits=limits, scales=(1.25,))

    def passes(gain: float, win_rate: float, drift: float) -> bool:
        scores = [
            score(name, gain=gain, margin=margin, win_rate=win_rate, opponent=opponent)
            for opponent in ("base", "champion")
            for name in ("symmetry", "hps", "diversity_across")
        ]
        distances = [standing(name, drift) for name in ("drift", "cmmd")]
        agreed = [Agreement(opponent="base", num_prompts=100, all_rise=min(win_rate, 1), only_trained=drift)]
        against_base = [one for one in scores if one.opponent == "base"]
        point = point_of(1.25, *against_base, standings=distances).model_copy(update={"agreements": tuple(agreed)})
        curve = ScaleCurve(num_prompts=20, points=(point,))
        return decide(report_of(*scores, standings=distances, agreements=agreed, scale_curve=curve), policy).publish

    assert passes(gain + more, win_rate + more_wins, drift * less_drift) or not passes(gain, win_rate, drift)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "min_prompts: 64\nagainst: {base: {symmetry: {min_gains: 0.1}}}",
            r"symmetry\.min_gains: no such key; did you mean min_gain\?",
        ),
        ("against: {base: {symmetry: {min_gain: 0.1}}}", "min_prompts: is missing"),
        (
            "min_prompts: 1\nagainst: {base: {a: {min_gain: 0}}}",
            "min_prompts=1: Input should be greater than or equal to 8",
        ),
        (
            "min_prompts: 64\nmin_prompts_in_category: 1\nagainst: {base: {a: {min_gain: 0}}}",
            "min_prompts_in_category=1: Input should be greater than or equal to 8",
        ),
        ("min_prompts: 64\nagainst: {}", "against={}: Dictionary should have at least 1 item"),
        ("min_prompts: 64\nagainst: {candidate: {a: {min_gain: 0}}}", r"against\.candidate: is who is judged"),
        ("min_prompts: 64\nagainst: {base: {}}", r"against\.base: holds no reward"),
        ("min_prompts: 64\nagainst: {base: {symmetry: {}}}", "holds no rule: give one of min_gain"),
        ("min_prompts: 64\nagainst: {base: {symmetry: {max_drop: -0.1}}}", "greater than or equal to 0"),
        ("min_prompts: 64\nagainst: {base: {symmetry: {min_gain: nan}}}", "finite number"),
        ("min_prompts: 64\nlimits: {max_drift: 3}\nagainst: {base: {a: {min_gain: 0}}}", r"limits\.max_drift=3: .* 2"),
        ("against: [", "not valid YAML"),
        ("", "min_prompts: is missing; against: is missing"),
        ("3", "holds 3, wanted keys with values"),
    ],
)
def test_a_policy_that_says_nothing_clear_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        Policy.read(path)
    assert "\n" not in str(raised.value)


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file"):
        Policy.read(tmp_path / "none.yaml")

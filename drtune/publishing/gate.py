"""The gate before the registry: a report and a policy go in, a decision with its reasons comes out.

What the policy wants *gained* must hold at the low end of the 95 % interval: chance must not publish a model. What it
wants *kept* must hold for the mean: noise on a reward that nobody tuned must not refuse a good one. All rules must
hold, so that many of them make a wrong publication less likely, not more, and need no correction for their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from drtune.contracts import (
    DIVERSITY_ACROSS,
    DIVERSITY_WITHIN,
    LOOKS,
    Check,
    Decision,
    EvaluationReport,
    ScalePoint,
    Score,
    SeedsResult,
    StudyResult,
)
from drtune.errors import UserError
from drtune.evaluation.capability.shares import pooled
from drtune.files.local import sha256_bytes
from drtune.publishing.policy import CapabilityRules, Limits, Policy, Rules, SeedRules, StudyRules


def decide(
    report: EvaluationReport,
    policy: Policy,
    study: StudyResult | None = None,
    seeds: SeedsResult | None = None,
) -> Decision:
    """Publish when every rule of the policy passes. Pure; a number that is NaN never passes.

    A candidate that is at least as good in every number of the report is never refused where a worse one was published.

    Args:
        report: the evaluation.
        policy: what it must fulfil.
        study: what people said of the pictures of the same report, if they were asked.
        seeds: what the same training came to with several seeds, if it was repeated.

    Raises:
        UserError: the study or the seeds are of another report, or the policy has nothing to say of them.
    """
    if study is not None:
        if policy.study is None:
            raise UserError("study: the policy has no section `study` that could count it; add one, or leave it out")
        if study.report_sha256 != report.manifest_sha256:
            raise UserError("study: is of another report; count one that was made from this report")
    if seeds is not None:
        _check_candidate(seeds, policy, report)
    checks = [
        Check(
            passed=report.num_prompts >= policy.min_prompts,
            reason=f"{report.num_prompts} prompts, at least {policy.min_prompts} wanted",
        ),
        *(
            check
            for opponent, rewards in policy.against.items()
            for check in _against(opponent, rewards, report, policy)
        ),
        *_limits(policy.limits, report),
        *_capability(policy.capability, report),
        *_scales(policy, report),
        *(_study(policy.study, study) if policy.study else []),
        *(_seeds(policy.seeds, seeds) if policy.seeds else []),
    ]
    return Decision(
        publish=all(check.passed for check in checks),
        checks=tuple(sorted(checks, key=lambda check: check.passed)),
        report_sha256=report.manifest_sha256,
        policy_sha256=sha256_bytes(policy.model_dump_json().encode()),
        study_sha256=study.manifest_sha256 if study else None,
        seeds_sha256=seeds.manifest_sha256 if seeds else None,
        is_unopposed="champion" in policy.against and not _has("champion", report),
        pick=_pick(policy, report),
    )


def _scales(policy: Policy, report: EvaluationReport) -> Iterator[Check]:
    """The checks at other strengths of the adapter."""
    points = {point.scale: point for point in report.scale_curve.points} if report.scale_curve else {}
    for scale in policy.scales:
        name = f"at {scale:g} of the adapter's strength"
        if scale not in points:
            yield Check(passed=False, reason=f"{name}: not in the report; set evaluation.scale_curve")
        else:
            failed = [check.reason for check in _at(points[scale], policy, report) if not check.passed]
            reason = f"{name}: {failed[0]}" if failed else f"{name}: every rule against the base and every limit holds"
            yield Check(passed=not failed, reason=reason)


def _at(point: ScalePoint, policy: Policy, report: EvaluationReport) -> list[Check]:
    """The rules against the base and the limits at a strength of the adapter, on however few prompts a curve has."""
    at = report.at(point)
    on_few = policy.model_copy(update={"min_prompts": min(policy.min_prompts, at.num_prompts)})
    return [*_against("base", policy.against.get("base", {}), at, on_few), *_limits(policy.limits, at)]


def _pick(policy: Policy, report: EvaluationReport) -> str:
    """The strength at which the first reward that was tuned on gains most while all rules hold, in a sentence."""
    if report.scale_curve is None:
        return ""
    lead = report.trained_rewards[0]
    gains = {
        point.scale: score.gain
        for point in report.scale_curve.points
        if point.scale and all(check.passed for check in _at(point, policy, report))
        if (score := report.at(point).score(lead))
    }
    where = f"on the curve's {report.scale_curve.num_prompts} prompts"
    if not gains:
        return f"{where.capitalize()} the policy would pick no strength of the adapter: its rules hold at none."
    best = max(gains, key=lambda scale: gains[scale])
    return (
        f"{where.capitalize()} the policy would pick {best:g} of the adapter's strength, where {lead} gains "
        f"{gains[best]:.3f}; its rules against the base and its limits hold at {', '.join(f'{s:g}' for s in gains)}."
    )


def _has(opponent: str, report: EvaluationReport) -> bool:
    """Whether the report holds the candidate against this opponent."""
    return opponent in {contestant.name for contestant in report.contestants}


def _against(opponent: str, rewards: dict[str, Rules], report: EvaluationReport, policy: Policy) -> Iterator[Check]:
    """The checks against one opponent, in the order of its rules."""
    if not _has(opponent, report):
        if opponent == "champion":
            yield Check(passed=True, reason="champion: the report has none, so there is nothing to beat")
        else:
            reason = f"{opponent}: not in the report; give the evaluation --reference {opponent}=FOLDER"
            yield Check(passed=False, reason=reason)
        return
    for name, rules in rewards.items():
        overall = report.score(name, opponent)
        if overall is None:
            reason = f"{name} against {opponent}: not in the report; add it to evaluation.rewards"
            yield Check(passed=False, reason=reason)
        elif (count := overall.num_prompts) < policy.min_prompts:  # a reference may share a few prompts only
            reason = f"{name} against {opponent}: {count} common prompts, at least {policy.min_prompts} wanted"
            yield Check(passed=False, reason=reason)
        else:
            categories = [
                score
                for score in report.scores
                if (score.measure, score.opponent) == (name, opponent) and score.category is not None
            ]
            large = [score for score in categories if score.num_prompts >= policy.min_prompts_in_category]
            yield from _reward(f"{name} against {opponent}", rules, overall, large, len(categories) - len(large))


def _reward(name: str, rules: Rules, overall: Score, categories: Sequence[Score], num_small: int) -> Iterator[Check]:
    """The checks of one reward; `num_small` categories have too few prompts to be among `categories`."""
    if (bound := rules.min_gain) is not None:
        low, interval = _interval(overall.gain_low, overall.gain_high)
        reason = f"{name}: gain {overall.gain:.4f} ({interval}), at least {bound:g} wanted at its low end"
        yield Check(passed=low >= bound, reason=reason)
    if (bound := rules.min_win_rate) is not None:
        low, interval = _interval(overall.win_low, overall.win_high)
        reason = f"{name}: win rate {overall.win_rate:.4f} ({interval}), at least {bound:g} wanted at its low end"
        yield Check(passed=low >= bound, reason=reason)
    if (bound := rules.max_drop) is not None:
        reason = f"{name}: mean gain {overall.gain:.4f}, at least {-bound:g} wanted"
        yield Check(passed=overall.gain >= -bound, reason=reason)
    if (bound := rules.max_drop_in_category) is not None:
        worst = _lowest(categories or [overall], [score.gain for score in categories or [overall]])
        where = "all prompts" if worst.category is None else f"category {worst.category!r}"
        left_out = f"; {num_small} with too few prompts not judged" if num_small else ""
        reason = f"{name}: mean gain {worst.gain:.4f} in {where}, the worst, at least {-bound:g} wanted{left_out}"
        yield Check(passed=worst.gain >= -bound, reason=reason)


def _known(number: float | None) -> float:
    """NaN, which passes no check, for what is not known on so few prompts."""
    return math.nan if number is None else number


def _interval(low: float | None, high: float | None) -> tuple[float, str]:
    """The low end, and the interval in words."""
    return _known(low), f"95 % interval {_known(low):.4f} to {_known(high):.4f}"


def _lowest(scores: Sequence[Score], numbers: Sequence[float]) -> Score:
    """The score with the lowest number; NaN is the lowest of all, and min() alone would overlook it."""
    return min(zip(scores, numbers, strict=True), key=lambda pair: (not math.isnan(pair[1]), pair[1]))[0]


def _limits(limits: Limits, report: EvaluationReport) -> Iterator[Check]:
    """The checks of what must be kept, against the base."""
    if (bound := limits.max_held_out_drop) is not None:
        held_out = _of_kind(report, "held_out")
        if not held_out:
            reason = "held-out rewards: the report has none; add one that was not tuned on to evaluation.rewards"
            yield Check(passed=False, reason=reason)
        for score in held_out:
            effect = _known(score.effect)
            reason = f"{score.measure}, not tuned on: gain {effect:.2f} deviations, at least {-bound:g} wanted"
            yield Check(passed=effect >= -bound, reason=reason)
    if (bound := limits.min_diversity) is not None:
        fixes = {
            DIVERSITY_WITHIN: "set evaluation.features, and evaluation.pictures_per_prompt to 2 or more",
            DIVERSITY_ACROSS: "set evaluation.features",
        }
        yield from _absent(report, fixes)
        for score in _of_kind(report, "diversity"):
            kept = score.candidate_mean / score.opponent_mean if score.opponent_mean else math.nan
            reason = f"{score.measure}: {100 * kept:.0f} % of the base's, at least {100 * bound:g} % wanted"
            yield Check(passed=kept >= bound, reason=reason)
    for name, bound in (("drift", limits.max_drift), ("cmmd", limits.max_cmmd)):
        if bound is not None:
            distance = report.standing(name)
            if distance is None:
                yield Check(passed=False, reason=f"{name}: not in the report; set evaluation.features")
            else:
                reason = f"{name}: {distance.mean:.3f} from the base, at most {bound:g} wanted"
                yield Check(passed=distance.mean <= bound, reason=reason)
    yield from _agreement(limits, report)
    if (bound := limits.max_look_change) is not None:
        yield from _absent(report, dict.fromkeys(LOOKS, "evaluate again"))
        for score in _of_kind(report, "look"):
            effect = _known(score.effect)
            reason = f"{score.measure}: moved by {effect:+.2f} deviations, at most {bound:g} either way wanted"
            yield Check(passed=abs(effect) <= bound, reason=reason)


def _absent(report: EvaluationReport, fixes: Mapping[str, str]) -> Iterator[Check]:
    """A check that fails for each of these measures that the report lacks: what is not known is not kept."""
    for name, fix in fixes.items():
        if report.score(name) is None:
            yield Check(passed=False, reason=f"{name}: not in the report; {fix}")


def _agreement(limits: Limits, report: EvaluationReport) -> Iterator[Check]:
    """The checks of what the rewards agree on."""
    if limits.min_all_rise is None and limits.max_only_trained is None:
        return
    agreement = report.agreement()
    if agreement is None:
        reason = "agreement of rewards: not in the report; add one that was not tuned on to evaluation.rewards"
        yield Check(passed=False, reason=reason)
        return
    if (bound := limits.min_all_rise) is not None:
        share = agreement.all_rise
        reason = f"all rewards rose on {100 * share:.0f} % of the prompts, at least {100 * bound:g} % wanted"
        yield Check(passed=share >= bound, reason=reason)
    if (bound := limits.max_only_trained) is not None:
        share = agreement.only_trained
        reason = f"only those tuned on rose on {100 * share:.0f} % of the prompts, at most {100 * bound:g} % wanted"
        yield Check(passed=share <= bound, reason=reason)


def _capability(rules: CapabilityRules | None, report: EvaluationReport) -> Iterator[Check]:
    """The check of what base and candidate can draw of compositional prompts."""
    if rules is None:
        return
    if report.capability is None:
        yield Check(passed=False, reason="capability: not in the report; set evaluation.capability.prompts")
        return
    scores = {score.category: score for score in report.capability.scores if score.category is not None}
    counted = [score for category, score in scores.items() if category not in rules.without]
    if rules.without and (not counted or not scores.keys() >= set(rules.without)):
        known = ", ".join(scores) or "no category"
        reason = f"capability: {', '.join(rules.without)} cannot be left out of what the report has: {known}"
        yield Check(passed=False, reason=reason)
        return
    overall = pooled(counted) if rules.without else report.capability.scores[0]
    name = f"capability without {', '.join(rules.without)}" if rules.without else "capability"
    if overall.base <= rules.margin:  # it could lose no more, whatever it draws
        told = f"{100 * overall.base:.0f} % of {overall.num_prompts} prompts, no more than the margin {rules.margin:g}"
        fix = "lower capability.margin, or give prompts that the base can draw"
        yield Check(passed=False, reason=f"{name}: the base is right on {told}: no loss could show; {fix}")
        return
    low, interval = _interval(overall.low, overall.high)
    reason = (
        f"{name}: right on {100 * overall.candidate:.0f} % of {overall.num_prompts} prompts, the base on "
        f"{100 * overall.base:.0f} %; difference {overall.difference:.4f} ({interval}), above {-rules.margin:g} wanted "
        "at its low end"
    )
    yield Check(passed=low > -rules.margin, reason=reason)


def _of_kind(report: EvaluationReport, kind: str) -> list[Score]:
    """The comparisons with the base in all measures of one kind."""
    names = [measure.name for measure in report.measures if measure.kind == kind]
    return [score for name in names if (score := report.score(name)) is not None]


def _study(rules: StudyRules, study: StudyResult | None) -> Iterator[Check]:
    """The checks of what people said."""
    if study is None:
        yield Check(passed=False, reason="study: the policy wants one, and none was given; see `drtune study`")
        return
    preference = study.preference("candidate", rules.opponent)
    if preference is None:
        yield Check(passed=False, reason=f"study: nobody compared the candidate with {rules.opponent}")
        return
    name = f"people against {rules.opponent}"
    reason = (
        f"{name}: win rate {preference.win_rate:.4f} (95 % interval {preference.win_low:.4f} to "
        f"{preference.win_high:.4f}), at least {rules.min_win_rate:g} wanted at its low end"
    )
    yield Check(passed=preference.win_low >= rules.min_win_rate, reason=reason)
    for number, bound, what in (
        (preference.num_votes, rules.min_votes, "votes"),
        (preference.num_raters, rules.min_raters, "raters"),
    ):
        yield Check(passed=number >= bound, reason=f"{name}: {number} {what}, at least {bound} wanted")


def _check_candidate(seeds: SeedsResult, policy: Policy, report: EvaluationReport) -> None:
    """Refuse a report that is not that of the seed which the policy named before.

    Raises:
        UserError: it is another's.
    """
    if policy.seeds is None:
        raise UserError("seeds: the policy has no section `seeds` that could count them; add one, or leave them out")
    place = policy.seeds.candidate
    if place >= len(seeds.runs):
        raise UserError(
            f"seeds: the policy names the seed at place {place} of {len(seeds.runs)}; correct seeds.candidate"
        )
    if seeds.runs[place].report_sha256 != report.manifest_sha256:
        raise UserError(
            f"seeds: the policy names seed {seeds.runs[place].seed}, at place {place}, and this report is another's; "
            "give that seed's report"
        )


def _seeds(rules: SeedRules, seeds: SeedsResult | None) -> Iterator[Check]:
    """The checks of what the same training came to with several seeds."""
    if seeds is None:
        yield Check(passed=False, reason="seeds: the policy wants several, and none were given; see `drtune seeds`")
        return
    count = len(seeds.runs)
    yield Check(passed=count >= rules.min_seeds, reason=f"{count} seeds, at least {rules.min_seeds} wanted")
    for name, bound in rules.min_gain.items():
        gain = seeds.gain(name)
        if gain is None:
            fix = (
                "set evaluation.capability.prompts"
                if name.split()[0] == "capability"
                else "add it to evaluation.rewards"
            )
            yield Check(passed=False, reason=f"{name} over seeds: not among them; {fix}")
        else:
            low, interval = _interval(gain.low, gain.high)
            told = f"gain {gain.gain:.4f} ({interval}), at least {bound:g} wanted at its low end"
            reason = f"{name} over {count} seeds: {told}"
            yield Check(passed=low >= bound, reason=reason)

"""Signs that a reward was hacked: what moved though nobody asked for it, in words.

They warn and do not decide; what decides is the policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drtune.contracts import EvaluationReport, Score

SMALL_EFFECT, LARGE_EFFECT = 0.2, 0.8
"""Standard deviations of the base's prompts; what Cohen 1988 calls small and large."""
LOST_DIVERSITY = 0.2
"""Share of the base's diversity."""


class Sign(NamedTuple):
    """Something to look into before the pictures are trusted."""

    measure: str
    text: str


def signs(report: EvaluationReport) -> list[Sign]:
    """What the report holds against its candidate, in comparison with the base, and beyond chance.

    Nothing on too few prompts, where chance cannot be told.
    """
    return [*_signs(report), *_less_capable(report)]


def unsuspected(report: EvaluationReport) -> str:
    """What is said where there are no signs: in what they were looked for."""
    told = {"held_out": "rewards that were not tuned on", "diversity": "diversity", "look": "looks"}
    kinds = {measure.kind for measure in report.measures}
    looked_at = [words for kind, words in told.items() if kind in kinds]
    looked_at += ["compositional prompts"] if report.capability else []
    if not looked_at:
        return "Nothing was measured that could show a hacked reward."
    *others, last = looked_at
    return f"No sign of a hacked reward in {', '.join(others)}{' and ' if others else ''}{last}."


def _signs(report: EvaluationReport) -> Iterator[Sign]:
    for measure in report.measures:
        score = report.score(measure.name)
        if score is None or score.effect is None or score.gain_high is None:
            continue
        if measure.kind == "held_out" and score.gain_high < 0 and score.effect < -SMALL_EFFECT:
            yield Sign(measure.name, f"{measure.name}, which was not tuned on, fell {_by(score, score.effect)}")
        elif measure.kind == "diversity" and score.gain_high < 0 and score.gain < -LOST_DIVERSITY * score.opponent_mean:
            lost = -100 * score.gain / score.opponent_mean
            among = "of one prompt" if measure.name == "diversity_within" else "of different prompts"
            yield Sign(measure.name, f"pictures {among} are {lost:.0f} % less diverse than the base's")
        elif measure.kind == "look" and abs(score.effect) > LARGE_EFFECT:
            yield Sign(
                measure.name, f"{measure.name} {'rose' if score.gain > 0 else 'fell'} {_by(score, score.effect)}"
            )


def _less_capable(report: EvaluationReport) -> Iterator[Sign]:
    """Categories of compositional prompts of which fewer are right; without categories, all together."""
    every = report.capability.scores if report.capability else ()
    for score in every[1:] or every:
        if score.high is not None and score.high < 0:
            what = f"{score.category}: of" if score.category else "of"
            yield Sign(
                "capability",
                f"{what} {score.num_prompts} compositional prompts {100 * score.candidate:.0f} % are right, of the "
                f"base's {100 * score.base:.0f} %",
            )


def _by(score: Score, effect: float) -> str:
    """How far a measure moved."""
    return (
        f"from {score.opponent_mean:.3f} to {score.candidate_mean:.3f}, "
        f"{abs(effect):.1f} standard deviations of the base's prompts"
    )

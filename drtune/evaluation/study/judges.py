"""How far judges are of the raters' opinion: each reward with most raters, and a rater with most of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from drtune.contracts import JudgeAgreement, StudyPair
from drtune.evaluation.study.measures import Judgement, win_rate

RATERS = "a rater with the others"


def judge_agreements(pairs: Iterable[StudyPair], votes: Sequence[Judgement]) -> tuple[JudgeAgreement, ...]:
    """The share of the pairs on which each reward prefers the picture that most raters do, the highest first.

    Pairs on which as many raters were for one side as for the other have no majority and are left out; a reward that
    gives both pictures the same score agrees by one half.

    Args:
        pairs: of the study, with their scores.
        votes: those that are no repeats.
    """
    given = _by_pair(votes)
    agreed: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    for pair in pairs:
        majority = _side(given.get(pair.id, []))
        if majority:
            for judge, (left, right) in pair.scores.items():
                agreed[judge][pair.id] = (pair.prompt, _agrees(np.sign(left - right), majority))
    found = [_rate(judge, list(of_pair.values())) for judge, of_pair in agreed.items()]
    return tuple(sorted(found, key=lambda agreement: -agreement.rate))


def human_agreement(votes: Sequence[Judgement]) -> JudgeAgreement | None:
    """How often a rater prefers the picture that most of the others do; None where no pair has others with a majority.

    A pair counts by the mean over its raters. Her own tie agrees by one half, as that of a judge.
    """
    of_pair = []
    for given in _by_pair(votes).values():
        agrees = []
        for index, vote in enumerate(given):
            others = _side([*given[:index], *given[index + 1 :]])
            if others:
                agrees.append(_agrees(np.sign(vote.wins_left - 0.5), others))
        if agrees:
            of_pair.append((given[0].prompt, float(np.mean(agrees))))
    return _rate(RATERS, of_pair) if of_pair else None


def _by_pair(votes: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    given: dict[str, list[Judgement]] = defaultdict(list)
    for vote in votes:
        given[vote.question].append(vote)
    return given


def _side(votes: Sequence[Judgement]) -> float:
    """What most of them say: 1 for left, -1 for right, 0 if neither."""
    return float(np.sign(sum(np.sign(vote.wins_left - 0.5) for vote in votes)))


def _agrees(side: float, majority: float) -> float:
    """1 or 0 for a side of a judge and that of the majority; 0.5 for a judge's tie."""
    return float(1 + side * majority) / 2


def _rate(judge: str, agreed: Sequence[tuple[str, float]]) -> JudgeAgreement:
    """From a prompt and a share for each pair; the interval is as that of a win rate."""
    prompts, shares = zip(*agreed, strict=True)
    rate = win_rate(prompts, shares)
    return JudgeAgreement(judge=judge, num_pairs=len(agreed), rate=rate.value, low=rate.low, high=rate.high)

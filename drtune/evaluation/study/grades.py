"""How much better one contestant was graded than another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from drtune.contracts import MIN_PROMPTS, GradeGain
from drtune.evaluation.statistics import mean_interval
from drtune.evaluation.study.measures import Judgement


def grade_gains(contestants: Sequence[str], votes: Sequence[Judgement]) -> tuple[GradeGain, ...]:
    """The gain in grades of every two contestants that met; none where no grades were given.

    Grades of one prompt go together, so a prompt counts by the mean over its votes, and the interval is that of a gain
    in a reward. A rater who is strict is so with both pictures of a pair, which the difference leaves out.

    Args:
        contestants: their names, in the study's order.
        votes: those that are no repeats.
    """
    found = []
    for contestant, opponent in combinations(contestants, 2):
        given: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for vote in votes:
            if vote.grades is not None and {vote.left, vote.right} == {contestant, opponent}:
                left, right = vote.grades
                given[vote.prompt].append((left, right) if vote.left == contestant else (right, left))
        if not given:
            continue
        means_P2 = np.array([np.mean(grades, axis=0) for grades in given.values()])
        gains_P = means_P2[:, 0] - means_P2[:, 1]
        low, high = None, None
        if len(gains_P) >= MIN_PROMPTS:
            low, high = (float(end[0]) for end in mean_interval(gains_P[:, None]))
        found.append(
            GradeGain(
                contestant=contestant,
                opponent=opponent,
                num_prompts=len(gains_P),
                mean=float(means_P2[:, 0].mean()),
                opponent_mean=float(means_P2[:, 1].mean()),
                gain=float(gains_P.mean()),
                low=low,
                high=high,
            )
        )
    return tuple(found)

"""Paired comparison of two lists of scores, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 4000


@dataclass(frozen=True)
class PairedComparison:
    """Candidate against base on the same prompts; the fields are those of `drtune.contracts.Score`."""

    num_prompts: int
    base_mean: float
    candidate_mean: float
    gain: float
    gain_low: float
    gain_high: float
    win_rate: float
    win_low: float
    win_high: float


def compare_paired(
    base_N: ArrayLike, candidate_N: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> PairedComparison:
    """Mean gain and win rate of candidate over base, each with its percentile bootstrap interval.

    Pairs are resampled with replacement, which keeps what a prompt contributes to both sides together (Efron and
    Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). The resamples depend on the seed and on N alone,
    so a candidate that is better on every prompt never has a lower interval.

    Args:
        base_N: scores of the base, shape (N,), finite.
        candidate_N: scores of the candidate for the same prompts in the same order.
        confidence: probability that the interval is meant to cover, in (0, 1).
        seed: seed of the resampling.

    Raises:
        ValueError: no scores, shapes that differ, or a score that is not finite.
    """
    base, candidate = np.asarray(base_N, dtype=np.float64), np.asarray(candidate_N, dtype=np.float64)
    if base.ndim != 1 or base.shape != candidate.shape:
        raise ValueError(f"scores of base {base.shape} and candidate {candidate.shape} are not two lists of one length")
    if not len(base):
        raise ValueError("no scores to compare")
    for side, scores in (("base", base), ("candidate", candidate)):
        if bad := np.count_nonzero(~np.isfinite(scores)):
            raise ValueError(f"{bad} of {len(scores)} scores of the {side} are not finite")

    gains = candidate - base
    wins = (np.sign(gains) + 1) / 2  # a tie counts one half
    resamples_RN = np.random.default_rng(seed).integers(len(base), size=(RESAMPLES, len(base)))
    tail = (1 - confidence) / 2
    gain_low, gain_high = np.quantile(gains[resamples_RN].mean(axis=1), [tail, 1 - tail])
    win_low, win_high = np.quantile(wins[resamples_RN].mean(axis=1), [tail, 1 - tail])
    return PairedComparison(
        num_prompts=len(base),
        base_mean=float(base.mean()),
        candidate_mean=float(candidate.mean()),
        gain=float(gains.mean()),
        gain_low=float(gain_low),
        gain_high=float(gain_high),
        win_rate=float(wins.mean()),
        win_low=float(win_low),
        win_high=float(win_high),
    )

"""One scale for more than two contestants: strengths by Bradley and Terry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drtune.contracts import Strength
from drtune.evaluation.statistics import Z_95
from drtune.evaluation.study.measures import Judgement, percentiles, resampled

VIRTUAL_WINS = 0.5
"""Given to both of every two contestants beforehand: one tie, which keeps the strength of who always wins finite."""
TOLERANCE = 1e-9
MAX_ITERATIONS = 100_000


def strengths(contestants: Sequence[str], judgements: Sequence[Judgement]) -> tuple[Strength, ...]:
    """Log-strengths with 95 % intervals, the strongest first; a tie is half a win for both, repeats do not count.

    Intervals are made as those of `win_rate`: the wider, at either end, of the bootstrap over prompts and of the normal
    approximation (from the Fisher information) for as many votes as there are prompts.

    Args:
        contestants: K names.
        judgements: at least one that is no repeat.
    """
    votes = [vote for vote in judgements if not vote.repeat]
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(vote.prompt for vote in votes))}
    number = {name: index for index, name in enumerate(contestants)}
    wins_PKK = np.zeros((len(prompts), len(number), len(number)))
    for vote in votes:
        prompt, left, right = prompts[vote.prompt], number[vote.left], number[vote.right]
        wins_PKK[prompt, left, right] += vote.wins_left
        wins_PKK[prompt, right, left] += 1 - vote.wins_left

    value_K = fit(wins_PKK.sum(axis=0)[None])[0]
    counts_RP = resampled(len(prompts))
    low_K, high_K = percentiles(fit(np.einsum("rp,pij->rij", counts_RP, wins_PKK, optimize=True)))
    asked_PKK = wins_PKK + wins_PKK.transpose(0, 2, 1)
    margin_K = Z_95 * _standard_errors(value_K, (asked_PKK > 0).sum(axis=0))
    found = [
        Strength(contestant=name, strength=value, low=min(low, value - margin), high=max(high, value + margin))
        for name, value, low, high, margin in zip(
            contestants, value_K.tolist(), low_K.tolist(), high_K.tolist(), margin_K.tolist(), strict=True
        )
    ]
    return tuple(sorted(found, key=lambda strength: -strength.strength))


def fit(wins_RKK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-strengths (R, K), with mean 0, of R tables of wins (R, K, K): i over j stands at [i, j], the diagonal is 0.

    The MM algorithm (Hunter 2004, "MM algorithms for generalized Bradley-Terry models", equation 3), after one virtual
    tie between every two contestants.

    Raises:
        RuntimeError: it did not converge.
    """
    num_contestants = wins_RKK.shape[1]
    wins_RKK = wins_RKK + VIRTUAL_WINS * (1 - np.eye(num_contestants))
    played_RKK = wins_RKK + wins_RKK.transpose(0, 2, 1)
    won_RK = wins_RKK.sum(axis=2)
    log_RK: NDArray[np.float64] = np.zeros(won_RK.shape)
    for _ in range(MAX_ITERATIONS):
        strength_RK = np.exp(log_RK)
        sums_RKK = strength_RK[:, :, None] + strength_RK[:, None, :]
        new_RK = np.log(won_RK) - np.log((played_RKK / sums_RKK).sum(axis=2))
        new_RK -= new_RK.mean(axis=1, keepdims=True)
        change = np.abs(new_RK - log_RK).max()
        log_RK = new_RK
        if change < TOLERANCE:
            return log_RK
    raise RuntimeError(f"strengths did not converge in {MAX_ITERATIONS} iterations")


def _standard_errors(log_K: NDArray[np.float64], asked_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the log-strengths, if contestants i and j had met `asked_KK[i, j]` times besides their virtual tie."""
    difference_KK = log_K[:, None] - log_K[None, :]
    chance_KK = 1 / (1 + np.exp(-difference_KK))
    met_KK = (asked_KK + 2 * VIRTUAL_WINS) * (1 - np.eye(len(log_K)))
    information_KK = -met_KK * chance_KK * (1 - chance_KK)
    np.fill_diagonal(information_KK, -information_KK.sum(axis=1))
    covariances_KK = np.linalg.pinv(information_KK, hermitian=True)
    return np.sqrt(np.diag(covariances_KK))

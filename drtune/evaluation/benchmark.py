"""The benchmark of Human Preference Score v2.1, as its authors compute it (Wu et al. 2023, arXiv 2306.09341).

Four styles of 800 prompts, one picture each; scores are 100 times the cosine. A style's number is the mean of the means
of ten groups of 80 prompts that follow each other, and the population deviation of those ten; the average is over all
pictures and has no deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from drtune.contracts import BenchmarkRow
from drtune.evaluation.report.published import STYLES

PROMPTS_A_STYLE = 800
GROUPS = 10


def benchmark(contestant: str, cosines: Mapping[str, Sequence[float]]) -> BenchmarkRow | None:
    """The row of a contestant from its cosines by style, each style in the order of its prompts.

    None: these are not the benchmark's styles with 800 prompts each, so that there is no such number.
    """
    if set(cosines) != set(STYLES) or any(len(values) != PROMPTS_A_STYLE for values in cosines.values()):
        return None
    styles = {}
    for style in STYLES:
        means = 100 * np.asarray(cosines[style], dtype=np.float64).reshape(GROUPS, -1).mean(axis=1)
        styles[style] = (float(means.mean()), float(means.std()))
    everything = np.concatenate([np.asarray(cosines[style], dtype=np.float64) for style in STYLES])
    return BenchmarkRow(contestant=contestant, styles=styles, average=float(100 * everything.mean()))

"""The curve, not the point: the candidate with its adapter at other strengths, from the base at 0 to beyond 1.

Reward goes up with the strength until the adapter overdoes it; where diversity and the rewards that were not tuned on
fall before that, the reward is being hacked. On the same noise, so that strengths compare picture by picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from drtune.config import Config
from drtune.contracts import DRIFT_PIXELS, Measure, ScaleCurve, ScalePoint, TunedModel
from drtune.evaluation.comparison import BASE, CANDIDATE, agreements, per_prompt, scores, standings, with_distances
from drtune.evaluation.contestants import AnyContestant, DrawnContestant
from drtune.evaluation.highlights import thumbnail

FULL_WEIGHTS = "no curve over the adapter's strength: all weights were tuned, which have none"


def other_strengths(config: Config, contestants: Iterable[AnyContestant]) -> Iterator[DrawnContestant]:
    """The candidate at each strength of the curve at which it is not drawn anyway; none where no curve is wanted."""
    candidate = next(one for one in contestants if one.name == CANDIDATE)
    assert isinstance(candidate, DrawnContestant)
    if config.scale_prompts and config.weights == "lora":
        for scale in sorted({*config.evaluation.scale_curve.scales} - {0.0, 1.0}):
            yield replace(candidate, name=f"{CANDIDATE}@{scale:g}", scale=scale)  # no reference may be called so


def no_curve(config: Config, model: TunedModel) -> tuple[str, ...]:
    """Why there is no curve, where one was wanted."""
    return (FULL_WEIGHTS,) if config.scale_prompts and model.weights == "full" else ()


def curve_of(
    table: pd.DataFrame, others: Sequence[DrawnContestant], measures: Sequence[Measure], count: int, folder: Path
) -> ScaleCurve | None:
    """The curve on the first `count` prompts, from the table of all pictures; thumbnails are written into `folder`.

    None without other strengths.
    """
    if not others:
        return None
    names = {0.0: BASE, 1.0: CANDIDATE} | {one.scale: one.name for one in others}
    few = table[(table["index"] < count) & (table["problem"] == "")].assign(category="")
    return ScaleCurve(
        num_prompts=few["index"].nunique(),
        points=tuple(_point(scale, name, few, measures, folder) for scale, name in sorted(names.items())),
    )


def _point(scale: float, name: str, few: pd.DataFrame, measures: Sequence[Measure], folder: Path) -> ScalePoint:
    """What a report would say if the contestant of that name were its candidate."""
    base, drawn = few[few["contestant"] == BASE], few[few["contestant"] == name]
    drawn = drawn.assign(contestant=CANDIDATE, **({DRIFT_PIXELS: 0.0} if name == BASE else {}))
    pictures = with_distances(pd.concat([base, drawn], ignore_index=True), measures)
    means = per_prompt(pictures, measures)
    return ScalePoint(
        scale=scale,
        standings=standings({CANDIDATE: means[CANDIDATE]}, measures),
        scores=scores(means, measures),
        agreements=agreements(means, measures),
        picture=thumbnail(folder, Path(name) / drawn["image"].iloc[0]),
    )

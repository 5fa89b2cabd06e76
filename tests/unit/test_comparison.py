"""From a table of pictures to standings and scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from drtune.contracts import CMMD, DIVERSITY_ACROSS, Measure
from drtune.evaluation.cmmd import cmmd_by_prompt
from drtune.evaluation.comparison import agreements, per_prompt, scores, standings, with_distances

REWARD = Measure(name="symmetry", kind="trained")
ACROSS = Measure(name=DIVERSITY_ACROSS, kind="diversity")


def table_of(count: int, *, categories: int = 1, pictures: int = 2, seed: int = 0) -> pd.DataFrame:
    """Random scores and features of two contestants on `count` prompts."""
    rng = np.random.default_rng(seed)
    rows = [
        (who, index, picture) for who in ("base", "candidate") for index in range(count) for picture in range(pictures)
    ]
    table = pd.DataFrame(rows, columns=["contestant", "index", "picture"])
    features = 1 + rng.normal(size=(len(rows), 8))
    return table.assign(
        category=[f"c{index % categories}" for index in table["index"]],
        drift_pixels=0.0,
        symmetry=rng.normal(size=len(rows)),
        features=list(features / np.linalg.norm(features, axis=1, keepdims=True)),
    )


def test_diversity_across_prompts_is_the_mean_over_pairs_of_prompts_with_an_interval_of_the_jackknife() -> None:
    table = table_of(12)
    [base, _] = standings(per_prompt(with_distances(table, [ACROSS]), [ACROSS]), [ACROSS])
    features = np.stack(table.loc[table["contestant"] == "base", "features"]).reshape(12, 2, 8)
    distances = 1 - np.einsum("ipd,jqd->ijpq", features, features).mean((2, 3))

    def over_pairs(kept: list[int]) -> float:
        part = distances[np.ix_(kept, kept)]
        return float(part[~np.eye(len(kept), dtype=bool)].mean())

    everyone = list(range(12))
    left_out = [over_pairs([*everyone[:one], *everyone[one + 1 :]]) for one in everyone]
    assert base.mean == pytest.approx(over_pairs(everyone))
    assert base.deviation == pytest.approx(11 * np.std(left_out))  # of the pseudo-values
    assert base.low is not None
    assert base.low < base.mean


def test_categories_of_a_few_prompts_have_means_alone_and_are_no_part_of_the_correction() -> None:
    prompts = per_prompt(table_of(24, categories=2), [REWARD])
    few = per_prompt(table_of(24, categories=4), [REWARD])
    alone, *by_category = scores(few, [REWARD])
    assert {score.num_prompts for score in by_category} == {6}
    assert {score.p_value for score in by_category} == {None}
    assert {score.effect for score in by_category} == {None}
    assert alone.p_value == scores(prompts, [REWARD])[0].p_value
    assert {standing.low is None for standing in standings(few, [REWARD]) if standing.category} == {True}
    assert all(score.p_value is not None for score in scores(prompts, [REWARD]))


def test_cmmd_is_told_of_all_but_the_base_on_the_prompts_that_it_shares() -> None:
    table = table_of(12)
    table = table[(table["contestant"] == "base") | (table["index"] > 1)]
    measures = [Measure(name=CMMD, kind="drift")]
    [found] = standings(per_prompt(with_distances(table, measures), measures), measures)
    assert (found.contestant, found.num_prompts) == ("candidate", 10)
    sides = [table[(table["contestant"] == who) & (table["index"] > 1)] for who in ("candidate", "base")]
    place = np.repeat(np.arange(10), 2)
    own, base = (np.stack(side["features"].tolist()) for side in sides)
    assert found.mean == pytest.approx(cmmd_by_prompt(own, place, base, place).mean())
    other = table.rename(columns={"features": "clip"})
    assert "clip" not in with_distances(other, measures)


def test_without_a_clip_there_is_no_cmmd() -> None:
    table = table_of(12)
    assert CMMD not in with_distances(table, [REWARD, ACROSS])


def test_agreement_counts_prompts_on_which_all_rewards_rise_and_on_which_the_trained_ones_rise_alone() -> None:
    measures = [REWARD, Measure(name="hps", kind="held_out"), Measure(name="pickscore", kind="held_out")]
    base = pd.DataFrame(0.0, index=range(5), columns=["symmetry", "hps", "pickscore"])
    candidate = pd.DataFrame(
        [[1, 1, 1], [1, 0, -1], [1, 1, -1], [-1, 1, 1], [1, -1, -1]], columns=base.columns, dtype=float
    )
    prompts = {"candidate": candidate, "base": base, "mj": base.iloc[:2]}
    found = {one.opponent: (one.num_prompts, one.all_rise, one.only_trained) for one in agreements(prompts, measures)}
    assert found == {"base": (5, 0.2, 0.4), "mj": (2, 0.5, 0.5)}
    assert agreements(prompts, [REWARD]) == ()

"""From a table of pictures to what can be said of the contestants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drtune.contracts import (
    CMMD,
    DIVERSITY_ACROSS,
    DIVERSITY_WITHIN,
    DRIFT,
    DRIFT_PIXELS,
    MIN_PROMPTS,
    Agreement,
    Measure,
    Score,
    Standing,
)
from drtune.evaluation.cmmd import cmmd_by_prompt
from drtune.evaluation.statistics import compare_paired, holm, mean_interval, pseudo_values

BASE, CANDIDATE = "base", "candidate"


def with_distances(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """The table of pictures with drift, CMMD and diversity in the place of the unit embeddings that they are taken of.

    Those are `features` and `clip`, of which either may be absent. Where CMMD is not among the measures, none is a
    CLIP's.
    """
    told = _with_diversity(_with_cmmd(_with_drift(table), measures))
    return told.drop(columns=["features", "clip"], errors="ignore")


def _with_drift(table: pd.DataFrame) -> pd.DataFrame:
    """With drift in features where there is drift in pixels: 1 - cosine to the base's picture of the shot."""
    if "features" not in table:
        return table
    shots = pd.MultiIndex.from_frame(table[["index", "picture"]])
    is_base, drawn = table["contestant"] == BASE, table[DRIFT_PIXELS].notna()
    base = pd.Series(table.loc[is_base, "features"].tolist(), index=shots[is_base])
    own_ND, base_ND = np.stack(table.loc[drawn, "features"].tolist()), np.stack(base[shots[drawn]].tolist())
    return table.assign(**{DRIFT: pd.Series(1 - np.einsum("nd,nd->n", own_ND, base_ND), index=table.index[drawn])})


def _with_diversity(table: pd.DataFrame) -> pd.DataFrame:
    """With diversity, the rows of a contestant together.

    Within a prompt it is the mean of 1 - cosine over the pairs of its pictures; across prompts, that of a picture and
    those of all other prompts of its contestant. Both are 0 where all pictures are alike, and NaN where there is one.
    """
    if "features" not in table:
        return table
    parts = [_spread(rows, np.stack(rows["features"].tolist())) for _, rows in table.groupby("contestant", sort=False)]
    return pd.concat(parts)


def _with_cmmd(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """With CMMD to the base: for each prompt that both drew the mean over its pairs, in each of its rows.

    It takes embeddings from `clip`, or from `features` where both are one.
    """
    space = "clip" if "clip" in table else "features"
    if space not in table or CMMD not in {measure.name for measure in measures}:
        return table
    is_base = table["contestant"] == BASE
    distances = pd.Series(np.nan, index=table.index)
    for _, rows in table[~is_base].groupby("contestant", sort=False):
        base = table[is_base & table["index"].isin(rows["index"])]
        rows = rows[rows["index"].isin(base["index"])]
        prompts, place_N = np.unique(rows["index"], return_inverse=True)
        if len(prompts) > 1:
            own_ND, base_MD = np.stack(rows[space].tolist()), np.stack(base[space].tolist())
            means_P = cmmd_by_prompt(own_ND, place_N, base_MD, np.searchsorted(prompts, base["index"]))
            distances[rows.index] = means_P[place_N]
    return table.assign(**{CMMD: distances})


def _spread(rows: pd.DataFrame, features_ND: NDArray[np.float64]) -> pd.DataFrame:
    """Diversity of one contestant. Cosines with many unit vectors add up to the product with their sum: no pairs."""
    prompts, place_N = np.unique(rows["index"], return_inverse=True)
    sums_PD = np.zeros((len(prompts), features_ND.shape[1]))
    np.add.at(sums_PD, place_N, features_ND)
    count_N = np.bincount(place_N)[place_N]
    own_N = np.einsum("nd,nd->n", features_ND, sums_PD[place_N])
    all_N = features_ND @ sums_PD.sum(axis=0)
    others_N = np.where(count_N > 1, count_N - 1, np.nan)
    elsewhere_N = np.where(len(rows) > count_N, len(rows) - count_N, np.nan)
    within_N = 1 - (own_N - 1) / others_N
    across_N = 1 - (all_N - own_N) / elsewhere_N
    return rows.assign(**{DIVERSITY_WITHIN: within_N, DIVERSITY_ACROSS: across_N})


def per_prompt(table: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, pd.DataFrame]:
    """For each contestant the means over the pictures of a prompt: a row a prompt, a column a measure that it has.

    What is a mean over pairs of prompts, so that each prompt's number holds all others too, is given as pseudo-values.
    """
    names = [measure.name for measure in measures]
    means = {}
    for contestant, rows in table.groupby("contestant", sort=False):
        grouped = rows.groupby("index")
        columns = grouped[names].mean().dropna(axis=1)
        for name in {DIVERSITY_ACROSS, CMMD} & set(columns):
            columns[name] = pseudo_values(columns[name])
        means[str(contestant)] = columns.assign(category=grouped["category"].first())
    return means


def standings(contestants: Mapping[str, pd.DataFrame], measures: Sequence[Measure]) -> tuple[Standing, ...]:
    """Every contestant by itself: all measures over all prompts, and the rewards by category if there are several.

    `contestants` are the means that `per_prompt` gives; likewise below.
    """
    made = []
    for contestant, means in contestants.items():
        for category, rows, names in _tables(means, means, measures):
            values_NM = rows[names].to_numpy()
            low, high = mean_interval(values_NM) if len(rows) >= MIN_PROMPTS else (None, None)
            for column, name in enumerate(names):
                made.append(
                    Standing(
                        contestant=contestant,
                        measure=name,
                        category=category,
                        num_prompts=len(rows),
                        mean=float(values_NM[:, column].mean()),
                        low=None if low is None else float(low[column]),
                        high=None if high is None else float(high[column]),
                        deviation=float(values_NM[:, column].std()),
                    )
                )
    return tuple(made)


def scores(contestants: Mapping[str, pd.DataFrame], measures: Sequence[Measure]) -> tuple[Score, ...]:
    """The candidate against every opponent, on the prompts that both have; p-values are corrected, each in its table.

    There are three tables: rewards over all prompts, rewards by category, and what is told beside them.
    """
    made = []
    for opponent, theirs in contestants.items():
        if opponent == CANDIDATE:
            continue
        ours = contestants[CANDIDATE]
        common = ours.index.intersection(theirs.index)
        for category, rows, names in _tables(ours.loc[common], theirs.loc[common], measures):
            opponent_NM, candidate_NM = theirs.loc[rows.index, names].to_numpy(), rows[names].to_numpy()
            paired = compare_paired(opponent_NM, candidate_NM)
            columns: dict[str, list[Any]] = {
                field: [None] * len(names) if values is None else values.tolist()
                for field, values in vars(paired).items()
            }
            for column, name in enumerate(names):
                made.append(
                    Score(
                        measure=name,
                        opponent=opponent,
                        category=category,
                        num_prompts=len(rows),
                        opponent_mean=float(opponent_NM[:, column].mean()),
                        candidate_mean=float(candidate_NM[:, column].mean()),
                        **{field: values[column] for field, values in columns.items()},
                    )
                )
    return tuple(_corrected(made, frozenset(measure.name for measure in measures if measure.is_reward)))


def agreements(contestants: Mapping[str, pd.DataFrame], measures: Sequence[Measure]) -> tuple[Agreement, ...]:
    """On which share of the prompts all rewards rose over each opponent, and on which only those that were tuned on."""
    kinds = {measure.name: measure.kind for measure in measures if measure.is_reward}
    ours, trained = contestants[CANDIDATE][list(kinds)], [kind == "trained" for kind in kinds.values()]
    if all(trained):
        return ()
    made = []
    for opponent, theirs in contestants.items():
        if opponent == CANDIDATE:
            continue
        common = ours.index.intersection(theirs.index)
        rose_NM = ours.loc[common].to_numpy() > theirs.loc[common, list(kinds)].to_numpy()
        made.append(
            Agreement(
                opponent=opponent,
                num_prompts=len(common),
                all_rise=float(rose_NM.all(axis=1).mean()),
                only_trained=float((rose_NM == trained).all(axis=1).mean()),
            )
        )
    return tuple(made)


def _tables(
    ours: pd.DataFrame, theirs: pd.DataFrame, measures: Sequence[Measure]
) -> Iterator[tuple[str | None, pd.DataFrame, list[str]]]:
    """Which of our rows and of the measures that both have stand in one table: first all, then each category's."""
    both = [measure for measure in measures if measure.name in ours and measure.name in theirs]
    yield None, ours, [measure.name for measure in both]
    if ours["category"].nunique() > 1:
        for category, rows in ours.groupby("category", sort=True):
            yield str(category), rows, [measure.name for measure in both if measure.is_reward]


def _corrected(made: Sequence[Score], rewards: frozenset[str]) -> list[Score]:
    """The scores with p-values corrected for all others of the same table."""
    families: dict[tuple[bool, bool], list[int]] = {}
    for place, score in enumerate(made):
        families.setdefault((score.measure in rewards, score.category is None), []).append(place)
    corrected = list(made)
    for places in families.values():
        tested = {place: p_value for place in places if (p_value := made[place].p_value) is not None}
        for place, p_value in zip(tested, holm(list(tested.values())), strict=True):
            corrected[place] = made[place].model_copy(update={"p_value": p_value})
    return corrected

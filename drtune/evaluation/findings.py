"""What a report says of the pictures: standings, scores, highlights and problems, all from one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from drtune.config import Config
from drtune.contracts import DIVERSITY_WITHIN, SCORES, BenchmarkRow, Contestant
from drtune.evaluation.benchmark import benchmark
from drtune.evaluation.comparison import CANDIDATE, agreements, per_prompt, scores, standings, with_distances
from drtune.evaluation.contestants import AnyContestant
from drtune.evaluation.highlights import highlights, write_grid
from drtune.evaluation.measures import Gauges
from drtune.files.local import sha256_file, write_text

PROBLEMS = "problems.jsonl"
ALONE = f"no second picture, so that {DIVERSITY_WITHIN} is left out"
HPS = "hps"


def findings(
    table: pd.DataFrame, contestants: Sequence[AnyContestant], gauges: Gauges, config: Config, folder: Path
) -> dict[str, Any]:
    """What a report says of the pictures, by its fields; the files that belong to it are written into `folder`."""
    used = table[table["problem"] == ""].drop(columns="problem")
    pictures = with_distances(used, gauges.measures)
    problems = [*_problems(table, contestants), *_alone(pictures, gauges)]
    write_text(folder / PROBLEMS, "".join(json.dumps(problem) + "\n" for problem in problems))
    pictures.drop(columns="index").to_parquet(folder / SCORES, index=False)
    write_grid(pictures, folder)
    gained, lost = highlights(pictures, config, folder)
    means = per_prompt(pictures, gauges.measures)
    return {
        "contestants": _described(contestants, pictures, problems),
        "measures": gauges.measures,
        "standings": standings(means, gauges.measures),
        "scores": scores(means, gauges.measures),
        "agreements": agreements(means, gauges.measures),
        "benchmark": _benchmark(pictures),
        "gained": gained,
        "lost": lost,
        "scores_sha256": sha256_file(folder / SCORES),
    }


def _problems(table: pd.DataFrame, contestants: Sequence[AnyContestant]) -> list[dict[str, Any]]:
    """Every picture that is not used, and why."""
    return [
        *({"contestant": one.name, **problem._asdict()} for one in contestants for problem in one.problems),
        *_rows(table[table["problem"] != ""]),
    ]


def _alone(pictures: pd.DataFrame, gauges: Gauges) -> list[dict[str, Any]]:
    """Every prompt with one picture, for which its contestant has no diversity, though other prompts have more."""
    if DIVERSITY_WITHIN not in {measure.name for measure in gauges.measures}:
        return []
    known = pictures[DIVERSITY_WITHIN].notna()
    alone = pictures.loc[~known & known.groupby(pictures["contestant"]).transform("any")].assign(problem=ALONE)
    return _rows(alone)


def _rows(pictures: pd.DataFrame) -> list[dict[str, Any]]:
    table = pictures[["contestant", "image", "prompt", "problem"]]
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _described(
    contestants: Sequence[AnyContestant], pictures: pd.DataFrame, problems: Sequence[dict[str, Any]]
) -> list[Contestant]:
    """Who is compared, the candidate first."""
    counts = Counter((problem["contestant"], problem["problem"]) for problem in problems)
    described = [
        Contestant(
            name=one.name,
            role=one.role,
            source=one.source,
            sha256=one.sha256,
            num_pictures=int((pictures["contestant"] == one.name).sum()),
            problems={reason: number for (name, reason), number in sorted(counts.items()) if name == one.name},
        )
        for one in contestants
    ]
    return sorted(described, key=lambda contestant: contestant.name != CANDIDATE)


def _benchmark(pictures: pd.DataFrame) -> list[BenchmarkRow]:
    """The Human Preference Score's benchmark of each contestant, where the prompts are its prompts."""
    if HPS not in pictures:
        return []
    first = pictures[pictures["picture"] == 0]
    rows = [
        benchmark(str(contestant), {str(style): part[HPS].tolist() for style, part in group.groupby("category")})
        for contestant, group in first.groupby("contestant", sort=False)
    ]
    return [row for row in rows if row is not None]

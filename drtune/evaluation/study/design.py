"""Which pictures a study compares, on which sides, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from drtune.contracts import BESIDE_REWARDS, SCORES, StudyPair
from drtune.errors import UserError
from drtune.evaluation.study.defaults import COUNT

COLUMNS = ["contestant", "prompt", "category", "picture", "image"]

Place = tuple[str, int]
"""A prompt and the number of its picture: contestants drew it from the same noise."""
Scores = dict[tuple[str, str, int], dict[str, float]]
"""What rewards gave a contestant's picture, by contestant, prompt and number of the picture, and by reward."""


def read_pictures(
    report: Path, contestants: Sequence[str]
) -> tuple[dict[str, dict[Place, Path]], dict[str, str], Scores]:
    """The files of each contestant's pictures by their places, the category of each prompt, and the pictures' scores.

    Raises:
        UserError: the report's table of scores cannot be used, or does not hold these contestants.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(report / SCORES)
        if missing := set(COLUMNS) - set(table):
            raise LookupError(missing)
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError):  # of damaged metadata, pandas' own
        columns = ", ".join(COLUMNS)
        raise UserError(f"{report / SCORES}: is no table with the columns {columns}; evaluate again") from None
    known = sorted(set(table["contestant"]))
    rewards = [name for name in table.select_dtypes("number") if name not in (*COLUMNS, *BESIDE_REWARDS)]
    pictures: dict[str, dict[Place, Path]] = {}
    scores: Scores = {}
    for contestant in contestants:
        if contestant not in known:
            raise UserError(f"contestant {contestant!r}: is not in {report}; give some of {', '.join(known)}")
        rows = table[table["contestant"] == contestant]
        places = list(zip(rows["prompt"], (int(number) for number in rows["picture"]), strict=True))
        folder = report / "images" / contestant
        pictures[contestant] = {place: folder / image for place, image in zip(places, rows["image"], strict=True)}
        for place, given in zip(places, rows[rewards].to_dict("records"), strict=True):
            scores[contestant, *place] = {str(reward): score for reward, score in given.items() if np.isfinite(score)}
    return pictures, dict(zip(table["prompt"], table["category"], strict=True)), scores


def design(
    places: Mapping[str, Sequence[Place]],
    categories: Mapping[str, str],
    *,
    count: int | None,
    repeat: float,
    rng: np.random.Generator,
) -> list[list[StudyPair]]:
    """Draw the questions of a study, in three parts that are asked one after the other.

    Every two contestants meet equally often, on as many different prompts as there are, each on either side equally
    often. What is asked twice is asked in the first part and, with its sides swapped, in the last one.

    Args:
        places: for each contestant the places that it has pictures of.
        categories: of each prompt.
        count: questions, repeats not counted; None: COUNT, or all that can be asked if those are fewer.
        repeat: share of them that is asked twice, in [0, 1].
        rng: what is drawn hangs on it alone.

    Raises:
        UserError: contestants have no place in common, or there are fewer questions than `count`.
    """
    meetings = list(combinations(places, 2))
    common = {meeting: sorted(set(places[meeting[0]]) & set(places[meeting[1]])) for meeting in meetings}
    for (one, other), shared in common.items():
        if not shared:
            raise UserError(f"contestants {one}, {other}: have no prompt in common; give others")
    possible = min(map(len, common.values())) * len(meetings)
    if count is None:
        count = min(COUNT, possible)
    if not len(meetings) <= count <= possible:
        raise UserError(
            f"count={count}: these contestants' pictures make {len(meetings)} to {possible} questions, "
            f"every two of them equally often; give --count {min(max(count, len(meetings)), possible)}"
        )
    pairs = _with_sides(_chosen(common, count, rng), categories, rng)
    return _parts(pairs, round(repeat * count), rng)


def _chosen(
    common: Mapping[tuple[str, str], list[Place]], count: int, rng: np.random.Generator
) -> list[tuple[tuple[str, str], Place]]:
    """Meetings in turn, each at a place of its own whose prompt was used least so far."""
    left = {meeting: [shared[index] for index in rng.permutation(len(shared))] for meeting, shared in common.items()}
    used: Counter[str] = Counter()
    chosen = []
    for number in range(count):
        meeting = list(common)[number % len(common)]
        place = min(left[meeting], key=lambda place: (used[place[0]], place[1]))
        left[meeting].remove(place)
        used[place[0]] += 1
        chosen.append((meeting, place))
    return chosen


def _with_sides(
    chosen: Sequence[tuple[tuple[str, str], Place]], categories: Mapping[str, str], rng: np.random.Generator
) -> list[StudyPair]:
    """Let each contestant of a meeting stand left in half of their questions, which ones is drawn."""
    numbers = Counter(meeting for meeting, _ in chosen)
    swaps = {meeting: list(rng.permutation(np.arange(number) % 2)) for meeting, number in numbers.items()}
    pairs = []
    for meeting, (prompt, picture) in chosen:
        left, right = reversed(meeting) if swaps[meeting].pop() else meeting
        category = str(categories[prompt])
        pairs.append(
            StudyPair(id=_opaque(rng), prompt=prompt, category=category, picture=picture, left=left, right=right)
        )
    return pairs


def _parts(pairs: list[StudyPair], num_repeats: int, rng: np.random.Generator) -> list[list[StudyPair]]:
    """Put what is asked twice into the first part, its repeats into the last, and fill up to three equal parts."""
    shuffled = [pairs[index] for index in rng.permutation(len(pairs))]
    twice, once = shuffled[:num_repeats], shuffled[num_repeats:]
    repeats = [
        pair.model_copy(update={"id": _opaque(rng), "left": pair.right, "right": pair.left, "repeats": pair.id})
        for pair in twice
    ]
    room = max(0, round((len(pairs) + num_repeats) / 3) - num_repeats)
    last = min(room, max(0, len(once) - room))
    first_part = twice + once[:room]
    middle_part = once[room : len(once) - last]
    last_part = repeats + once[len(once) - last :]
    return [[part[index] for index in rng.permutation(len(part))] for part in (first_part, middle_part, last_part)]


def _opaque(rng: np.random.Generator) -> str:
    return rng.bytes(6).hex()

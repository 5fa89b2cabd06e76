"""Prompts that are the same but for how they are written, or nearly the same."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import NamedTuple

NEARLY = 0.8
"""Prompts are near from this Jaccard index of their pairs of neighbouring words on.

As Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", ACL, take for documents.
"""


class NearDuplicate(NamedTuple):
    """A held-out prompt, and the one to train on that is nearest to it."""

    held_out: str
    trained: str


def canonical(text: str) -> str:
    """What is left when case, compatibility forms (NFKC), punctuation, symbols and spaces do not count.

    Of a text that has nothing else, the text in small letters.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.casefold()).casefold())
    spaced = "".join(" " if unicodedata.category(character)[0] in "PSZC" else character for character in folded)
    return " ".join(spaced.split()) or text.casefold()


def near_duplicates(held_out: Sequence[str], trained: Sequence[str]) -> list[NearDuplicate]:
    """The held-out prompts that are near one to train on, with the nearest.

    Exact, without comparing all with all: prompts that are near share one of their few rarest pairs (prefix filtering,
    Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search", WWW).
    """
    frequency = Counter(pair for text in trained for pair in _pairs(text))

    def rarest(pairs: frozenset[int]) -> list[int]:
        return sorted(pairs, key=lambda pair: (frequency[pair], pair))[: len(pairs) - ceil(NEARLY * len(pairs)) + 1]

    places: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(trained):
        for pair in rarest(_pairs(text)):
            places[pair].append(place)
    near = []
    for text in held_out:
        pairs = _pairs(text)
        candidates = {place for pair in rarest(pairs) for place in places.get(pair, ())}
        found = [(_jaccard(pairs, _pairs(trained[place])), -place) for place in candidates]
        likeness, place = max(found, default=(0.0, 0))
        if likeness >= NEARLY:
            near.append(NearDuplicate(text, trained[-place]))
    return near


def _pairs(text: str) -> frozenset[int]:
    """Hashes of the pairs of neighbouring words; of a single word, its own."""
    words = canonical(text).split()
    return frozenset(map(hash, pairwise(words))) or frozenset(map(hash, words))


def _jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    return len(left & right) / len(left | right)

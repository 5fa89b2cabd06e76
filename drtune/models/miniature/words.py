"""The words of the miniature's world: of others it knows letters only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache

from drtune.models.miniature import CHECKPOINT


def warning_of(texts: Sequence[str]) -> str | None:
    """One sentence about texts with words that the miniature was never shown, if there are any."""
    strange = [unknown for unknown in map(_unknown, texts) if unknown]
    if not strange:
        return None
    return (
        f"{len(strange)} of {len(texts)} prompts have words that the miniature was never shown, such as "
        f"{strange[0][0]!r}: it draws them as something that it knows (data/miniature.jsonl has prompts of its world)"
    )


def _unknown(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]+", text.lower()) if f"{word}</w>" not in _vocabulary()]


@cache
def _vocabulary() -> frozenset[str]:
    tokenizer = json.loads((CHECKPOINT / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    return frozenset(tokenizer["model"]["vocab"])

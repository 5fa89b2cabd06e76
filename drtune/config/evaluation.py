"""Parts of the evaluation's configuration: what is drawn beside the held-out prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drtune.config.sections import Section

MOST_TASKS = 10_000
"""Compositional prompts, of which base and candidate draw two pictures in all."""


class ScaleCurveConfig(Section):
    """Rewards, diversity and drift over the strength of the adapter; the base is 0, what was trained is 1."""

    prompts: int | None = Field(default=None, ge=0, le=1_000_000)
    """So many of the evaluation's prompts, the first, are drawn at the other strengths too; 0: none; null: 32 for the
    miniature, none for other bases."""
    scales: tuple[Annotated[float, Field(ge=0, le=4)], ...] = (0.25, 0.5, 0.75, 1.25)
    """Strengths to draw at; 0 and 1, which are drawn already, need not be named."""


class CapabilityConfig(Section):
    """Compositional prompts (colours, counts, positions): base and candidate draw each once, and a judge looks."""

    prompts: int | None = Field(default=None, ge=0, le=MOST_TASKS)
    """So many of them, the first of each category in turn; 0: none; null: 48 for the miniature, all of a file, none for
    other bases."""
    file: str | None = None
    """GenEval's `evaluation_metadata.jsonl`, GenEval 2's `geneval2_data.jsonl` or one alike, a path or on s3://; null:
    prompts that drtune brings. Its pictures are judged by `vqascore`; those of the miniature's own prompts by a
    classifier of its world."""

    def judge_of(self, base_model: str) -> Literal["probe", "vqascore"]:
        """Who says what the pictures show."""
        return "probe" if base_model == "miniature" and not self.file else "vqascore"

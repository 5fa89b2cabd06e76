"""The report as one self-contained page: numbers first, then pictures, then where everything came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import jinja2
from PIL import Image

from drtune.config import Config
from drtune.contracts import EvaluationReport, Score
from drtune.images import data_uri

NUM_HIGHLIGHTS = 16
PICTURE_SIDE = 256
"""Longer side of the pictures in the page, in pixels; the whole page stays below 2 MB."""


@dataclass(frozen=True)
class Pair:
    """One prompt's pictures from base and candidate, with the score that the candidate was tuned for."""

    prompt: str
    base: Image.Image
    candidate: Image.Image
    base_score: float
    candidate_score: float

    @property
    def gain(self) -> float:
        """Candidate minus base."""
        return self.candidate_score - self.base_score


def render(
    report: EvaluationReport,
    pairs: Sequence[Pair],
    config: Config,
    *,
    spreads: Mapping[str, float],
    num_truncated: int,
) -> str:
    """The page as HTML, without anything to load: it can be mailed, and shown in a sandboxed frame.

    Args:
        report: the numbers.
        pairs: the pictures of all prompts; the extremes are shown.
        config: the settings of the run, shown in full.
        spreads: for each reward the standard deviation of the base's scores over the prompts, the unit of the bars.
        num_truncated: how many prompts a text encoder could not read to their end.
    """
    best, worst = extremes(pairs, NUM_HIGHLIGHTS)
    return _template().render(
        report=report,
        overall=[score for score in report.scores if score.category is None],
        categories=by_category(report.scores),
        scales=scales(report.scores, spreads),
        highlights=[("Where it gained most", best), ("Where it gained least", worst)],
        config=config,
        tuned_for=" + ".join(
            f"{term.weight:g} \N{MULTIPLICATION SIGN} {name}" for name, term in config.rewards.items()
        ),
        num_truncated=num_truncated,
        picture=lambda image: data_uri(image, PICTURE_SIDE),
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent}
    return environment.from_string(resources.files("drtune").joinpath("report.html.jinja").read_text("utf-8"))


def extremes(pairs: Sequence[Pair], count: int) -> tuple[list[Pair], list[Pair]]:
    """The largest and the smallest gains, `count` together and none twice, the most extreme first."""
    ordered = sorted(pairs, key=lambda pair: pair.gain, reverse=True)
    shown = min(count, len(ordered))
    return ordered[: shown - shown // 2], ordered[::-1][: shown // 2]


def by_category(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scores of each category in the order of the rewards; empty when there is nothing to break down."""
    categories: dict[str, list[Score]] = {}
    for score in scores:
        if score.category is not None:
            categories.setdefault(score.category, []).append(score)
    return categories


def scales(scores: Sequence[Score], spreads: Mapping[str, float]) -> dict[str, float]:
    """For each reward the gain at which its bars end: for all the same multiple of the reward's spread.

    Rewards differ in their units; measured by how much base scores vary from prompt to prompt, their gains compare.
    """
    smallest = 1e-12  # a reward that is equal for every prompt has no spread
    units = {name: max(spread, smallest) for name, spread in spreads.items()}
    end = max(max(abs(score.gain_low), abs(score.gain_high), smallest) / units[score.reward] for score in scores)
    return {name: end * unit for name, unit in units.items()}


def number(value: float) -> str:
    """Three decimals, fewer when there are digits before the point: 0.056, 5.63, -12.4, 1234."""
    digits_before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, 3 - digits_before)}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A number with its sign; one that is written as zero has none."""
    digits = number(abs(value))
    if not digits.strip("0."):
        return digits
    return f"+{digits}" if value > 0 else f"\N{MINUS SIGN}{digits}"


def percent(value: float) -> str:
    """A fraction as whole percents."""
    return f"{value:.0%}".replace("%", "\N{NO-BREAK SPACE}%")

"""The report for people: one self-contained page, the same in Markdown, and the numbers for a table of metrics.

All of it is made from the folder of an EvaluationReport, and from the Decision on it once there is one.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2

from drtune.config import RewardTerm, load_config
from drtune.contracts import (
    CONFIG,
    MIN_PROMPTS,
    Decision,
    EvaluationReport,
    Score,
    SeedsResult,
    StudyResult,
    curve_lines,
    read_curve,
)
from drtune.errors import UserError
from drtune.evaluation.report.published import CAVEAT, PUBLISHED, STYLES
from drtune.evaluation.report.signs import signs, unsuspected
from drtune.evaluation.report.strength import panels
from drtune.files.charts import charts
from drtune.files.local import read_given, write_text
from drtune.files.markdown import markdown_environment

PAGE, SUMMARY = "report.html", "report.md"
LONGEST_BAR = 3.0
"""Standard deviations: a reward that falls by twenty must not leave the others without a bar to see."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def write_pages(
    report_folder: str | Path,
    out: str | Path,
    decision: Decision | None = None,
    study: StudyResult | None = None,
    seeds: SeedsResult | None = None,
) -> None:
    """Write report.html and report.md into the folder `out`: with the verdict on top, and what people said, if given.

    The page loads nothing: it can be mailed, and shown in a sandboxed frame.

    Raises:
        UserError: the folder is no EvaluationReport, or its thumbnails are gone.
    """
    folder = Path(report_folder)
    report, config = EvaluationReport.load(folder), load_config(folder / CONFIG)
    values = {
        "report": report,
        "min_prompts": MIN_PROMPTS,
        "config": config,
        "decision": decision,
        "study": study,
        "seeds": seeds,
        "rewards": report.rewards,
        "beside": [measure.name for measure in report.measures if not measure.is_reward],
        "opponents": report.contestants[1:],
        "categories": categories(report.scores),
        "scales": scales(report),
        "signs": (found := signs(report)),
        "unsuspected": unsuspected(report),
        "warned": warned(report, len(found)),
        "curve": charts(lines) if (lines := curve_lines(read_curve(folder))) else "",
        "panels": panels(report),
        "capable": report.capability,
        "published": PUBLISHED,
        "styles": STYLES,
        "caveat": CAVEAT,
        "tuned_for": " + ".join(told(name, term) for name, term in config.rewards.items()),
        "sentence": lambda text: sentence(text, [measure.name for measure in report.measures]),
        "picture": lambda path: data_uri(folder / path),
    }
    for name in (PAGE, SUMMARY):
        write_text(Path(out) / name, _template(f"{name}.jinja").render(values))


def headline_numbers(report: EvaluationReport) -> dict[str, float]:
    """The overall numbers by short names, as dashboards take them."""
    numbers: dict[str, float] = {}
    for measure in report.measures:
        if (standing := report.standing(measure.name)) is not None:
            numbers[measure.name] = standing.mean
    for score in report.overall:
        numbers[f"{score.measure}_gain_over_{score.opponent}"] = score.gain
        numbers[f"{score.measure}_win_rate_over_{score.opponent}"] = score.win_rate
    if report.capability:
        numbers["capability"] = report.capability.scores[0].candidate
        numbers["capability_gain_over_base"] = report.capability.scores[0].difference
    return numbers


@lru_cache(maxsize=2)
def _template(name: str) -> jinja2.Template:
    filters = {"number": number, "signed": signed, "percent": percent, "p_value": p_value}
    if name.endswith(".html.jinja"):
        environment = jinja2.Environment(
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= filters | {"words": words}
    else:
        environment = markdown_environment(**filters)
    environment.loader = jinja2.PackageLoader("drtune.evaluation.report", "")
    return environment.get_template(name)


def categories(scores: Sequence[Score]) -> list[str]:
    """The categories that there are numbers of, in order; none when there is nothing to break down."""
    return list(dict.fromkeys(score.category for score in scores if score.category is not None))


def warned(report: EvaluationReport, num_signs: int) -> str:
    """What stands beside a verdict: how many warnings there are, and how many rewards fell beyond chance; or ""."""
    scores = [report.score(reward) for reward in report.rewards]
    fell = sum(score is not None and score.gain_high is not None and score.gain_high < 0 for score in scores)
    parts = [(num_signs, "warning", ""), (fell, "reward", " fell")]
    return "; ".join(f"{count} {what}{'s' if count > 1 else ''}{did}" for count, what, did in parts if count)


def told(name: str, term: RewardTerm) -> str:
    """One reward of the sum that was maximised, with how it is bent."""
    said = f"{term.weight:g} \N{MULTIPLICATION SIGN} {words(name)}".replace("-", "\N{MINUS SIGN}")
    bound = ""
    if term.hinge is not None:
        bound = f" up to {term.hinge:g}"
    if term.target is not None:
        bound = f" near {term.target:g}"
    if term.praise is not None:
        bound = f" (tuned on {term.praise!r} less {term.blame!r}{bound})"
    return said + bound


def scales(report: EvaluationReport) -> dict[tuple[str, str], float]:
    """For each opponent and reward the gain at which bars end: for all rewards the same multiple of their spread.

    Rewards differ in their units; measured by how much they vary from prompt to prompt, their gains compare.
    """
    smallest = 1e-12  # a reward that is equal for every prompt has no spread
    spreads = {
        (standing.contestant, standing.measure): max(standing.deviation, smallest)
        for standing in report.standings
        if standing.category is None
    }
    ends: dict[str, float] = {}
    for score in report.scores:
        ends_of_gain = (abs(end) for end in (score.gain, score.gain_low, score.gain_high) if end is not None)
        reach = max(*ends_of_gain, smallest) / spreads[score.opponent, score.measure]
        ends[score.opponent] = max(min(reach, LONGEST_BAR), ends.get(score.opponent, 0.0))
    return {key: ends[key[0]] * spread for key, spread in spreads.items() if key[0] in ends}


def data_uri(path: Path) -> str:
    """A picture's file inside a page.

    Raises:
        UserError: it is gone.
    """
    try:
        content = read_given(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); evaluate again") from None
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(content).decode()}"


def number(value: float) -> str:
    """Three decimals, fewer when there are digits before the point: 0.056, 5.63, -12.4, 1234. No zero has a sign."""
    if math.isinf(value):  # an effect where the opponent's prompts do not differ
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    digits_before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:z.{max(0, 3 - digits_before)}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A number with its sign; one that is written as zero has none."""
    digits = number(abs(value))
    if not digits.strip("0."):
        return digits
    return f"+{digits}" if value > 0 else f"\N{MINUS SIGN}{digits}"


def words(name: str) -> str:
    """The name of a measure or a method as people read it.

    >>> words("rewards/warm.py:warm_light")
    'warm light'
    """
    return name.rpartition(":")[2].replace("_", " ")


def sentence(text: str, names: Sequence[str]) -> str:
    """A sentence with proper minus signs, and with those names that stand in it as people read them."""
    for name in names:
        text = text.replace(name, words(name))
    return re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text)


def percent(value: float) -> str:
    """A fraction as whole percents."""
    return f"{value:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def p_value(value: float) -> str:
    """Three decimals, as they are usually told.

    >>> p_value(0.0004), p_value(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

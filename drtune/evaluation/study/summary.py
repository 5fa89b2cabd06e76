"""A study's result for people: lines for the terminal, and a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from drtune.contracts import Preference, RaterResult, Strength, Study, StudyResult
from drtune.files.markdown import code, plain


def as_text(result: StudyResult) -> str:
    """Tables for the terminal; the last line is the verdict."""
    tables = [_preference_rows(result.preferences)]
    if result.strengths:
        tables.append(_strength_rows(result.strengths))
    tables.append(_rater_rows(result.raters))
    blocks = [_aligned(rows) for rows in tables]
    return "\n\n".join([*blocks, "\n".join(_quality(result)), "\n".join(verdicts(result))])


def as_markdown(result: StudyResult, study: Study) -> str:
    """The page `result.md`."""
    sections = [
        "# What people preferred",
        "\n".join(f"- **{plain(line)}**" for line in verdicts(result)),
        f"Asked was: {plain(study.question)}",
        _table(_preference_rows(result.preferences)),
    ]
    if result.strengths:
        sections += ["## Strengths", _table(_strength_rows(result.strengths))]
    sections += [
        "## Raters",
        _table(_rater_rows(result.raters)),
        "\n".join(f"- {line}" for line in _quality(result)),
        "## How to read it",
        "A win rate is the share of votes, a tie counting one half; repeated questions count for self-consistency "
        "alone. Intervals are 95 %: the wider of a bootstrap over prompts and of Wilson's interval for as many votes "
        "as there are prompts. They tell what other prompts would do to the result, not what other raters would.",
        "\n".join(
            [
                f"- study {code(study.id)}, key sha256 {code(result.study_sha256)}",
                f"- report sha256 {code(result.report_sha256)}",
                *(f"- votes of {plain(rater)} sha256 {code(digest)}" for rater, digest in result.votes_sha256.items()),
            ]
        ),
    ]
    return "\n\n".join(sections) + "\n"


def verdicts(result: StudyResult) -> list[str]:
    """One sentence for each two contestants that were compared."""
    return [_verdict(preference) for preference in result.preferences]


def _verdict(found: Preference) -> str:
    votes = f"{found.num_votes} votes on {found.num_prompts} prompts by {_raters(found.num_raters)}"
    if found.win_low > 0.5:
        return f"{found.contestant} is preferred to {found.opponent}: {_rate(found)} of {votes}"
    if found.win_high < 0.5:
        return f"{found.opponent} is preferred to {found.contestant}: {_rate(found)} for {found.contestant} of {votes}"
    return f"no clear preference: {_rate(found)} for {found.contestant} against {found.opponent} of {votes}"


def _rate(found: Preference) -> str:
    return f"{found.win_rate:.1%} ({found.win_low:.1%} to {found.win_high:.1%})"


def _raters(number: int) -> str:
    return "1 rater" if number == 1 else f"{number} raters"


def _quality(result: StudyResult) -> list[str]:
    """How far the votes can be trusted."""
    lines = []
    if result.self_consistency is None:
        lines.append("self-consistency: not known, since no question was answered twice")
    else:
        lines.append(f"self-consistency: {result.self_consistency:.0%} of {result.num_repeats} repeats answered alike")
    if result.agreement is None:
        lines.append("agreement: not known, since no two raters answered the same question")
    else:
        alpha = "not defined" if result.alpha is None else f"{result.alpha:.2f}"
        lines.append(
            f"agreement: two raters answer alike {result.agreement:.0%} of the time; Krippendorff's alpha {alpha}"
        )
    return lines


def _preference_rows(preferences: Iterable[Preference]) -> list[list[str]]:
    head = ["contestant", "against", "win rate", "95 % interval", "votes", "prompts", "raters"]
    rows = [
        [
            found.contestant,
            found.opponent,
            f"{found.win_rate:.1%}",
            f"{found.win_low:.1%} to {found.win_high:.1%}",
            str(found.num_votes),
            str(found.num_prompts),
            str(found.num_raters),
        ]
        for found in preferences
    ]
    return [head, *rows]


def _strength_rows(strengths: Iterable[Strength]) -> list[list[str]]:
    rows = [
        [found.contestant, f"{found.strength:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"] for found in strengths
    ]
    return [["contestant", "log-strength", "95 % interval"], *rows]


def _rater_rows(raters: Iterable[RaterResult]) -> list[list[str]]:
    rows = [
        [
            rater.rater,
            str(found.num_votes),
            "none" if rater.self_consistency is None else f"{rater.self_consistency:.0%} of {rater.num_repeats}",
            f"{found.contestant} against {found.opponent}",
            f"{found.win_rate:.1%}",
            f"{found.win_low:.1%} to {found.win_high:.1%}",
        ]
        for rater in raters
        for found in rater.preferences
    ]
    return [["rater", "votes", "same again", "contestants", "win rate", "95 % interval"], *rows]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[plain(cell) for cell in row] for row in rows]
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in chain([head, rule], body))

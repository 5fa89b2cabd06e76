"""A study's result for people: lines for the terminal, and a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable

from drtune.contracts import (
    GRADES,
    GradeGain,
    JudgeAgreement,
    Preference,
    QuestionResult,
    RaterResult,
    Strength,
    Study,
    StudyResult,
)
from drtune.files.markdown import aligned, code, plain, table

Rows = list[list[str]]


def as_text(result: StudyResult) -> str:
    """For each question tables for the terminal and the verdict; that of the first question comes last."""
    return "\n\n\n".join(_question_text(answer, titled=bool(result.further)) for answer in reversed(result.answers))


def _question_text(answer: QuestionResult, *, titled: bool) -> str:
    blocks = ["\n".join(map("  ".join, aligned(rows))) for _, rows in _tables(answer)]
    title = [answer.question] if titled else []
    return "\n\n".join([*title, *blocks, "\n".join(_quality(answer)), "\n".join(verdicts(answer))])


def as_markdown(result: StudyResult, study: Study) -> str:
    """The page `result.md`."""
    sections = ["# What people preferred"]
    for number, answer in enumerate(result.answers):
        if number:
            sections.append(f"# {plain(answer.question)}")
        sections.append("\n".join(f"- **{plain(line)}**" for line in verdicts(answer)))
        if not number:
            sections.append(f"Asked was: {plain(study.question)}")
        for title, rows in _tables(answer):
            sections += [*([f"## {title}"] if title else []), table(rows)]
        sections.append("\n".join(f"- {line}" for line in _quality(answer)))
    sections += [
        "# How to read it",
        "A win rate is the share of votes, a tie counting one half; repeated questions count for self-consistency "
        "alone. Intervals are 95 %: the wider of a bootstrap over prompts and of Wilson's interval for as many votes "
        "as there are prompts. They tell what other prompts would do to the result, not what other raters would.",
        *([_GRADED] if result.grades else []),
        *([_JUDGED] if result.judges else []),
        "\n".join(
            [
                f"- study {code(study.id)}, key sha256 {code(result.study_sha256)}",
                f"- report sha256 {code(result.report_sha256)}",
                *(f"- votes of {plain(rater)} sha256 {code(digest)}" for rater, digest in result.votes_sha256.items()),
            ]
        ),
    ]
    return "\n\n".join(sections) + "\n"


_GRADED = (
    f"Grades are {', '.join(f'{number} ({name})' for number, name in enumerate(GRADES, start=1))}; the picture with "
    "the higher one wins. The gain is the mean difference over prompts, its interval that of a reward's gain."
)
_JUDGED = (
    "A judge is a reward of the report. It agrees on a pair if it prefers the picture that most raters did; pairs on "
    "which they were divided are left out. A rater with the others, where there were several, is what can be expected "
    "of a judge that is as good as a rater."
)


def verdicts(answer: QuestionResult) -> list[str]:
    """One sentence for each two contestants that were compared."""
    return [_verdict(preference) for preference in answer.preferences] or ["nobody answered"]


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


def _tables(answer: QuestionResult) -> list[tuple[str, Rows]]:
    """What is told of a question, with titles but for the first."""
    judges = [*answer.judges, *([answer.human] if answer.judges and answer.human else [])]
    tables = {
        "": _preference_rows(answer.preferences),
        "Grades": _grade_rows(answer.grades),
        "Strengths": _strength_rows(answer.strengths),
        "Judges": _judge_rows(judges),
        "Raters": _rater_rows(answer.raters),
    }
    return [(title, rows) for title, rows in tables.items() if len(rows) > 1]


def _quality(result: QuestionResult) -> list[str]:
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


def _preference_rows(preferences: Iterable[Preference]) -> Rows:
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


def _grade_rows(gains: Iterable[GradeGain]) -> Rows:
    head = ["contestant", "against", "mean grade", "opponent's", "gain", "95 % interval", "prompts"]
    rows = [
        [
            found.contestant,
            found.opponent,
            f"{found.mean:.2f}",
            f"{found.opponent_mean:.2f}",
            f"{found.gain:+.2f}",
            "too few prompts" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}",
            str(found.num_prompts),
        ]
        for found in gains
    ]
    return [head, *rows]


def _judge_rows(judges: Iterable[JudgeAgreement]) -> Rows:
    rows = [
        [found.judge, f"{found.rate:.1%}", f"{found.low:.1%} to {found.high:.1%}", str(found.num_pairs)]
        for found in judges
    ]
    return [["judge", "agrees with most raters", "95 % interval", "pairs"], *rows]


def _strength_rows(strengths: Iterable[Strength]) -> Rows:
    rows = [
        [found.contestant, f"{found.strength:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"] for found in strengths
    ]
    return [["contestant", "log-strength", "95 % interval"], *rows]


def _rater_rows(raters: Iterable[RaterResult]) -> Rows:
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

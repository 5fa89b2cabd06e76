"""From checks to the verdict, and the verdict in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from drtune.contracts import DriftCheck, DriftOutcome, DriftVerdict, Observed
from drtune.files.markdown import plain, table

COLUMNS = ("check", "result", "value", "drift from", "why", "statistic")


def outcome_of(checks: Sequence[DriftCheck], min_drifted: int) -> tuple[DriftOutcome, str]:
    """The outcome and its reason.

    Drifted, when at least `min_drifted` checks drifted. Else stable, when a check of prompts could be made, and one of
    rewards, as far as there are such checks. Else there is not enough data: to know nothing is not to be stable.
    """
    if not checks:
        return "not enough data", "the policy has thresholds for rewards alone, and no scores were given"
    made = [check for check in checks if check.drifted is not None]
    drifted = [check.name for check in made if check.drifted]
    counts = f"{len(drifted)} of {len(made)} checks drifted" + (f": {', '.join(drifted)}" if drifted else "")
    counts += f" ({len(checks) - len(made)} more had not enough data)" if len(made) < len(checks) else ""
    if len(drifted) >= min_drifted:
        return "drifted", counts
    for subject in ("prompts", "rewards"):
        asked = [check for check in checks if check.subject == subject]
        if asked and all(check.drifted is None for check in asked):
            reason = asked[0].reason.removeprefix("not enough data: ")
            return "not enough data", f"no check of {subject} could be made: {reason}"
    return "stable", counts + (f", {min_drifted} would be a drift" if drifted else "")


def in_order(checks: Iterable[DriftCheck]) -> tuple[DriftCheck, ...]:
    """Those that drifted first, those without enough data last."""
    return tuple(sorted(checks, key=lambda check: (check.drifted is None, check.drifted is False)))


def in_words(verdict: DriftVerdict) -> list[str]:
    """Each check and each side in a line, without markup."""
    return [
        *(f"{check.name}: {_result(check)}{check.reason}" for check in verdict.checks),
        *(f"{name}: {_side(side)}" for name, side in _sides(verdict).items()),
    ]


def as_markdown(verdict: DriftVerdict) -> str:
    """The verdict first, then its checks and sides; what users wrote cannot become markup."""
    sides = [f"- {plain(name)}: {plain(_side(side))}" for name, side in _sides(verdict).items()]
    head = [f"# {verdict.outcome.capitalize()}", "", plain(_conclusion(verdict)), ""]
    return "\n".join([*head, table(_cells(verdict), numbers=False), "", *sides, ""])


def as_html(verdict: DriftVerdict) -> str:
    """The same as a section of a page."""
    names, *rows = _cells(verdict)
    table = [f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"]
    table += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows]
    sides = [f"<li>{name}: {escape(_side(side))}</li>" for name, side in _sides(verdict).items()]
    return (
        "<style>.verdict { font: 15px/1.5 sans-serif; margin: 1.5rem; color: #111; background: #fff }"
        ".verdict table { border-collapse: collapse } .verdict th, .verdict td { text-align: left; "
        "padding: .3rem .8rem; border-bottom: 1px solid #ddd; overflow-wrap: break-word }</style>"
        f'<section class="verdict"><h1>{verdict.outcome.capitalize()}</h1><p>{escape(_conclusion(verdict))}</p>'
        f"<table>{''.join(table)}</table><ul>{''.join(sides)}</ul></section>"
    )


def _conclusion(verdict: DriftVerdict) -> str:
    return f"{verdict.reason}. " + ("Train anew." if verdict.retrain else "No reason to train anew.")


def _cells(verdict: DriftVerdict) -> list[tuple[str, ...]]:
    """A table with its head."""
    rows = [
        (check.name, _word(check), _number(check.value), f"{check.threshold:g}", check.reason, check.statistic)
        for check in verdict.checks
    ]
    return [COLUMNS, *rows]


def _sides(verdict: DriftVerdict) -> dict[str, Observed]:
    sides = {
        "reference": verdict.reference,
        "incoming": verdict.incoming,
        "release scores": verdict.release_scores,
        "scores": verdict.scores,
    }
    return {name: side for name, side in sides.items() if side is not None}


def _result(check: DriftCheck) -> str:
    if check.value is None:
        return ""
    return f"{_word(check)}, {_number(check.value)} (a drift from {check.threshold:g}); "


def _word(check: DriftCheck) -> str:
    return {True: "drifted", False: "stable", None: "not enough data"}[check.drifted]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _side(side: Observed) -> str:
    files = "1 file" if side.num_files == 1 else f"{side.num_files} files"
    text = f"{side.source} ({side.count} in {files}, sha256 {side.sha256[:12]})"
    if side.used < side.count:
        text += f", of which a sample of {side.used} by a fixed seed was compared"
    if side.problems:
        text += ", not taken: " + ", ".join(f"{count} {reason}" for reason, count in side.problems.items())
    return text

"""From checks to the verdict, and the verdict in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from drtune.contracts import DriftCheck, DriftVerdict, Observed

Outcome = Literal["drifted", "stable", "not enough data"]


def outcome_of(checks: Sequence[DriftCheck], min_drifted: int) -> tuple[Outcome, str]:
    """The outcome and its reason.

    Drifted, when at least `min_drifted` checks drifted. Else stable, when a check of prompts could be made, and one of
    rewards, as far as there are such checks. Else there is not enough data: to know nothing is not to be stable.
    """
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
    """The verdict's lines for a terminal and a page, without markup."""
    lines = [f"{check.name}: {_result(check)}; {check.reason}" for check in verdict.checks]
    sides = {
        "reference": verdict.reference,
        "incoming": verdict.incoming,
        "release scores": verdict.release_scores,
        "scores": verdict.scores,
    }
    return lines + [f"{name}: {_side(side)}" for name, side in sides.items() if side is not None]


def summary(verdict: DriftVerdict) -> str:
    """The verdict as Markdown; what users wrote cannot become markup in it."""
    rows = [
        f"| {_plain(check.name)} | {_number(check.value)} | {check.threshold:g} | {_word(check)} | "
        f"{_plain(check.reason)} | {check.statistic} |"
        for check in verdict.checks
    ]
    sides = [f"- {_plain(line)}" for line in in_words(verdict)[len(rows) :]]
    return "\n".join(
        [
            f"# {verdict.outcome.capitalize()}",
            "",
            f"{_plain(verdict.reason)}. " + ("Train anew." if verdict.retrain else "No reason to train anew."),
            "",
            "| check | value | threshold | result | why | statistic |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *sides,
            "",
        ]
    )


def _result(check: DriftCheck) -> str:
    if check.value is None:
        return "not made"
    return f"{_word(check)}, {_number(check.value)} with {check.threshold:g} a drift"


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


def _plain(text: str) -> str:
    """Escape HTML, and what Markdown takes as markup."""
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", escape(" ".join(text.split()), quote=False))

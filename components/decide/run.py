"""Decide, and say why in the log, on the page and in the artifacts' metadata."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl

from components.decide.gains import gains_line
from components.endings import refused
from components.metadata import describe
from drtune.contracts import EvaluationReport
from drtune.evaluation.report.pages import PAGE, SUMMARY, headline_numbers
from drtune.publishing.decision import write_decision
from drtune.publishing.policy import Policy


def decide_report(
    report: dsl.Artifact,
    policy: str,
    decision: dsl.Artifact,
    page: dsl.HTML,
    summary: dsl.Markdown,
    numbers: dsl.Metrics,
) -> bool:
    """Write the Decision with its page into the folder of `decision`, and what the run's view shows; True: publish.

    Raises:
        UserError: the report or the policy cannot be read.
    """
    evaluated = EvaluationReport.load(report.path)
    folder = Path(decision.path)
    decided = write_decision(evaluated, Path(report.path), Policy.read(policy), folder)
    describe(decision, {"publish": decided.publish, "reasons": decided.reasons})
    Path(page.path).write_bytes((folder / PAGE).read_bytes())
    Path(summary.path).write_bytes((folder / SUMMARY).read_bytes())
    describe(numbers, headline_numbers(evaluated))
    rules = [check.reason for check in decided.checks if not check.passed]
    passed = [reason for check, reason in zip(decided.checks, decided.reasons, strict=True) if check.passed]
    print("publish" if decided.publish else refused(rules), *passed, sep="\n  ")
    print(gains_line(evaluated))
    return decided.publish

"""The gate's Decision on a report, written with its page."""

from __future__ import annotations

from pathlib import Path

from drtune.contracts import Decision, EvaluationReport, SeedsResult, StudyResult
from drtune.evaluation.report.pages import write_pages
from drtune.publishing.gate import decide
from drtune.publishing.policy import Policy


def write_decision(
    report: EvaluationReport,
    report_folder: Path,
    policy: Policy,
    folder: Path,
    study: StudyResult | None = None,
    seeds: SeedsResult | None = None,
) -> Decision:
    """Hold a report against a policy, and write the Decision and the report's page with the verdict into `folder`.

    Raises:
        UserError: as `decide`, or the thumbnails are gone from the report's folder.
    """
    decision = decide(report, policy, study, seeds)
    write_pages(report_folder, folder, decision, study, seeds)
    decision.save(folder)
    return decision

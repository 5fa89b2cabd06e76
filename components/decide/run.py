"""Decide, and say why in the log and in the artifacts' metadata."""

from __future__ import annotations

from kfp import dsl

from drtune.contracts import EvaluationReport
from drtune.gate import decide, load_policy


def decide_report(report: dsl.Artifact, policy: str, decision: dsl.Artifact, metrics: dsl.Metrics) -> bool:
    """Write the Decision into the folder of `decision` and the overall numbers into `metrics`; True means publish.

    Raises:
        UserError: the report or the policy cannot be read.
    """
    evaluated = EvaluationReport.load(report.path)
    decided = decide(evaluated, load_policy(policy))
    decided.save(decision.path)
    decision.metadata.update(decided.model_dump(mode="json"))
    for score in evaluated.scores:
        if score.category is None:
            metrics.log_metric(f"{score.reward}_gain", score.gain)
            metrics.log_metric(f"{score.reward}_win_rate", score.win_rate)
    print("publish" if decided.publish else "do not publish", *decided.reasons, sep="\n  ")
    return decided.publish

"""Read both sides, compare them, and show the verdict."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl

from components.endings import compared
from components.metadata import describe
from components.monitor.compare import Made, compare_prompts, compare_scores
from components.monitor.drift import render
from components.monitor.policy import MonitorPolicy
from components.monitor.sources import observed, read_prompts, read_scores
from components.monitor.verdict import as_html, as_markdown, in_order, in_words, outcome_of
from drtune.contracts import DriftVerdict, Observed
from drtune.errors import UserError
from drtune.files.local import sha256_bytes, write_text

REPORT = "report.html"
SUMMARY = "summary.md"


def monitor(
    reference: str,
    incoming: str,
    scores: str,
    release_scores: str,
    policy: str,
    verdict: dsl.Artifact,
    page: dsl.HTML,
    shown: dsl.Markdown,
    metrics: dsl.Metrics,
) -> bool:
    """Write the DriftVerdict, Evidently's report and a summary into the folder of `verdict`; True means train anew.

    The report goes to `page` as well, the summary to `shown`, and the value of each check to `metrics`.

    Raises:
        UserError: something given cannot be read.
    """
    judged, made = judge(reference, incoming, scores, release_scores, policy)
    judged.save(verdict.path)
    html = render(as_html(judged), [each.measured for each in made if each.measured])
    for place in (Path(verdict.path) / REPORT, Path(page.path)):
        write_text(place, html)
    for place in (Path(verdict.path) / SUMMARY, Path(shown.path)):
        write_text(place, as_markdown(judged))
    describe(verdict, judged.model_dump(mode="json"))
    describe(metrics, {check.name.replace(" ", "_"): check.value for check in judged.checks})
    print(compared(judged.outcome, judged.reason), *in_words(judged), sep="\n  ")
    return judged.retrain


def judge(
    reference: str, incoming: str, scores: str, release_scores: str, policy: str
) -> tuple[DriftVerdict, list[Made]]:
    """Compare the incoming prompts with the reference and, where both tables are given, the scores with the release's.

    Raises:
        UserError: the policy, a file or a folder cannot be read, only one of the tables is given, or they have so few
            rewards that the policy could never find a drift.
    """
    rules = MonitorPolicy.read(policy)
    if bool(scores) != bool(release_scores):
        missing, given = ("release_scores", scores) if scores else ("scores", release_scores)
        raise UserError(f"{missing}: not given, and {given} has nothing to be compared with; give both or none")
    trained, arriving = read_prompts("reference", reference), read_prompts("incoming", incoming)
    made = compare_prompts(trained.prompts, arriving.prompts, rules)
    released, now = None, None
    if scores:
        before = read_scores("release_scores", release_scores, rules.rewards)
        after = read_scores("scores", scores, rules.rewards)
        made += compare_scores(before.table, after.table, rules)
        released, now = _cut(before.observed, rules.max_scores), _cut(after.observed, rules.max_scores)
    checks = in_order(each.check for each in made)
    if checks:
        try:
            rules.refuse_too_few(len(checks))
        except ValueError as error:
            raise UserError(f"policy {policy}: {error}") from None
    outcome, reason = outcome_of(checks, rules.min_drifted)
    return DriftVerdict(
        outcome=outcome,
        reason=reason,
        checks=checks,
        reference=_cut(observed(trained), rules.max_prompts),
        incoming=_cut(observed(arriving), rules.max_prompts),
        release_scores=released,
        scores=now,
        policy_sha256=sha256_bytes(rules.model_dump_json().encode()),
    ), made


def _cut(side: Observed, most: int) -> Observed:
    """With the size of the sample that is compared."""
    return side.model_copy(update={"used": min(side.count, most)})

"""The commands `drtune evaluate` and `drtune decide`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtune.cli.console import AS_JSON, DECIDED, MODEL, OVERWRITE, PATH, REPORT, REPORTED
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.files.output import claimed

if TYPE_CHECKING:
    from drtune.contracts import EvaluationReport


@click.command()
@MODEL
@click.option("--prompts", type=PATH, help="A prompt set, whose held-out prompts are used.  [default: MODEL.prompts]")
@click.option(
    "--champion", type=PATH, help="The tuned model that it would replace, as `drtune registry pull` gives it."
)
@click.option(
    "--reference",
    "references",
    metavar="NAME=PLACE",
    multiple=True,
    help="Pictures to compare with: a folder, .zip or .tar, here or on s3://, with a manifest.csv (image, prompt). "
    "Repeatable.",
)
@click.option("--out", type=PATH, default=REPORTED, show_default=True, help="Folder for the report.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one evaluation.* or reward_checkpoints.* key of the model's configuration, height or width, as in "
    "evaluation.max_prompts=64. Repeatable.",
)
@OVERWRITE
def evaluate(
    model: Path,
    prompts: Path | None,
    champion: Path | None,
    references: tuple[str, ...],
    out: Path,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Compare a tuned model with its base and others. All have the same prompts, and models draw from the same noise;
    OUT/report.html shows the result.

    One that was ended goes on where it stopped when it is started again in the same way.
    """
    from drtune.evaluation.checks import check_inputs, overridden
    from drtune.evaluation.places import read_places

    places = read_places(references)
    if prompts is None:
        prompts = Path(f"{model}.prompts")
        if model.exists() and not prompts.exists():
            raise UserError(
                f"prompts {prompts}: not there; give --prompts, such as the set that the model was tuned on"
            )
    check_inputs(model, prompts, out, champion, places, overwrite=overwrite)
    overridden(model, overrides)
    from drtune.evaluation.report.pages import PAGE
    from drtune.evaluation.run import evaluate as compare

    report = compare(
        model,
        prompts,
        out,
        champion=champion,
        references=places,
        overrides=overrides,
        overwrite=overwrite,
    )
    _tell(report, out)
    click.echo(f"report: {out / PAGE}")


def _tell(report: EvaluationReport, out: Path) -> None:
    """What came of it, in a line for each comparison; what was left out goes to stderr."""
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    for contestant in report.contestants:
        for reason, count in contestant.problems.items():
            click.echo(f"{contestant.name}: {count} {reason}, named in {out / 'problems.jsonl'}", err=True)
    for score in report.overall:
        click.echo(
            f"{score.measure} against {score.opponent}: {score.opponent_mean:.3f} -> {score.candidate_mean:.3f}, "
            f"better on {score.win_rate:.0%} of {score.num_prompts} prompts"
        )
    if report.capability:
        (overall, *_), judge = report.capability.scores, report.capability.judge
        click.echo(
            f"compositional prompts, judged by {judge}: {overall.base:.0%} -> {overall.candidate:.0%} right, of "
            f"{overall.num_prompts}"
        )


@click.command()
@REPORT
@click.option(
    "--policy", type=PATH, default="configs/gate.yaml", show_default=True, help="YAML file with what must be achieved."
)
@click.option(
    "--study",
    type=PATH,
    help="What people said (`drtune study count`), for a policy with a study section.",
)
@click.option(
    "--seeds", type=PATH, help="What other seeds came to (`drtune seeds`), for a policy with a seeds section."
)
@click.option("--out", type=PATH, default=DECIDED, show_default=True, help="Folder for the decision.")
@AS_JSON
@OVERWRITE
@click.pass_context
def decide(
    ctx: click.Context,
    report: Path,
    policy: Path,
    study: Path | None,
    seeds: Path | None,
    out: Path,
    in_json: bool,
    overwrite: bool,
) -> None:
    """Hold a report against a policy. OUT/report.html is the report with the verdict on top.

    Exit code 0: worth publishing, 1: refused; the reasons are printed.
    """
    from drtune.contracts import EvaluationReport, SeedsResult, StudyResult
    from drtune.evaluation.report.pages import PAGE
    from drtune.publishing.decision import write_decision
    from drtune.publishing.policy import Policy

    with claimed(out, "Decision", overwrite=overwrite, inputs=[report, policy, study, seeds]) as place:
        result = StudyResult.load(study) if study else None
        repeated = SeedsResult.load(seeds) if seeds else None
        evaluated, rules = EvaluationReport.load(report), Policy.read(policy)
        with replacing(place) as folder:
            decision = write_decision(evaluated, report, rules, folder, result, repeated)
    if in_json:
        click.echo(decision.manifest(), nl=False)
    else:
        click.echo("\n".join([*decision.reasons, f"report: {out / PAGE}"]))
        click.echo("publish" if decision.publish else "do not publish")
    ctx.exit(0 if decision.publish else 1)

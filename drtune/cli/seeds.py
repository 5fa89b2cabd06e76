"""The commands `drtune seeds run` and `drtune seeds compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from drtune.cli.console import AS_JSON, CONFIG_FILE, OVERRIDES, OVERWRITE, PATH


def seeds_of(_ctx: click.Context | None, _param: click.Parameter | None, given: str) -> list[int]:
    """The seeds of an option: how many, from 0 on, or which, as in 5,0,1; two different ones or more.

    Raises:
        BadParameter: they are not.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{given!r} is neither how many, as in 3, nor which, as in 0,1,2.")
    numbers = list(map(int, parts))
    if len(numbers) == 1:
        numbers = list(range(numbers[0]))
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise click.BadParameter(f"{given!r} are not two different seeds or more.")
    return numbers


@click.group()
def seeds() -> None:
    """Train with several seeds, and tell what they come to. Intervals are over prompts and seeds."""


@seeds.command()
@CONFIG_FILE
@click.option("--prompts", type=PATH, help="As `drtune train` takes them.  [default: captions of the miniature]")
@OVERRIDES
@click.option(
    "--seeds",
    "numbers",
    metavar="N or A,B,...",
    callback=seeds_of,
    default="3",
    show_default=True,
    help="So many, from 0 on, or these. The first is the candidate, unless a policy names another.",
)
@click.option("--out", type=PATH, default="runs/seeds", show_default=True, help="Folder for all of them.")
@click.pass_context
def run(
    ctx: click.Context,
    config: Path | None,
    prompts: Path | None,
    overrides: tuple[str, ...],
    numbers: list[int],
    out: Path,
) -> None:
    """Train and evaluate the same with several seeds. One after the other, into OUT/<seed>/model and /report; then
    they are compared.

    What was ended goes on when it is started again in the same way: what is finished is kept.
    """
    from drtune.cli.evaluation import evaluate
    from drtune.cli.training import prompt_set, train
    from drtune.config import load_config
    from drtune.contracts import CONFIG, MANIFEST, EvaluationReport, TunedModel
    from drtune.models.index import read_index
    from drtune.models.start import read_start
    from drtune.training.checks import base_commit, check_start

    settings = load_config(config, overrides)
    check_start(settings)
    # Those that have begun first: the others take the commit of the base from them.
    order = sorted(numbers, key=lambda number: not (out / str(number) / "model" / CONFIG).exists())
    read_index(settings.base_model, base_commit(settings, out / str(order[0]) / "model"))
    read_start(settings)
    place = prompt_set(prompts, out / "prompts", settings, goes_on=True, overwrite=False)
    for number in order:
        model, report = out / str(number) / "model", out / str(number) / "report"
        click.echo(f"seed {number}: {model.parent}")
        changed = (*overrides, f"seed={number}")
        ctx.invoke(train, config=config, prompts=place, overrides=changed, out=model, resume=True)
        tuned = TunedModel.load(model)
        if tuned.base_revision is not None:  # all on one commit, though the hub's branch may move meanwhile
            overrides = (*overrides, f"base_revision={tuned.base_revision}")
        done = (report / MANIFEST).exists() and EvaluationReport.load(report).model == tuned
        if not done:
            ctx.invoke(evaluate, model=model, prompts=place, out=report, overwrite=report.exists())
    _compare([out / str(number) / "report" for number in numbers], out / "result", overwrite=True, in_json=False)
    first = out / str(numbers[0])
    click.echo(f"decide with: drtune decide --report {first / 'report'} --seeds {out / 'result'} --policy POLICY.yaml")


@seeds.command()
@click.argument("reports", nargs=-1, required=True)
@click.option("--out", type=PATH, default="runs/seeds/result", show_default=True, help="Folder for the result.")
@AS_JSON
@OVERWRITE
def compare(reports: tuple[str, ...], out: Path, in_json: bool, overwrite: bool) -> None:
    """Compare trainings that differ in their seed alone. REPORTS are of their evaluations, wherever they ran.

    Their order counts: a policy names the candidate by its place in it.
    """
    _compare(reports, out, overwrite=overwrite, in_json=in_json)


def _compare(reports: Sequence[str | Path], out: Path, *, overwrite: bool, in_json: bool) -> None:
    from drtune.evaluation.seeds import SUMMARY, as_markdown, compare_seeds

    result = compare_seeds(reports, out, overwrite=overwrite)
    if in_json:
        click.echo(result.manifest(), nl=False)
    else:
        click.echo(as_markdown(result), nl=False)
        click.echo(f"result: {out / SUMMARY}")

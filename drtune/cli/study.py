"""The commands `drtune study make` and `drtune study count`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from drtune.cli.console import AS_JSON, OVERWRITE, PATH, REPORT, Number
from drtune.evaluation.study.defaults import CONTESTANTS, COUNT, PROTOCOL, QUESTIONS, REPEAT, SEED, SIDE, TEXTS, TIES


@click.group()
def study() -> None:
    """Ask people which pictures are better. They are not told who drew which, and what they say is counted."""


@study.command()
@REPORT
@click.option("--out", type=PATH, default="runs/study", show_default=True, help="Folder for the page and its key.")
@click.option(
    "--contestants",
    metavar="NAME,...",
    default=",".join(CONTESTANTS),
    show_default=True,
    help="Of the report; every two of them are compared.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help=f"Questions, repeats not counted.  [default: {COUNT}, or all that there are if fewer]",
)
@click.option("--seed", type=click.IntRange(0, 2**62), default=SEED, show_default=True, help="Of what is drawn by lot.")
@click.option(
    "--repeat",
    type=Number(0, 1),
    default=REPEAT,
    show_default=True,
    help="Share of the questions that is asked twice, with the sides swapped.",
)
@click.option(
    "--protocol",
    type=click.Choice(list(TEXTS)),
    default=PROTOCOL,
    show_default=True,
    help="Choose the better picture, or grade each of the two from 1 (bad) to 4 (excellent).",
)
@click.option(
    "--question",
    "questions",
    multiple=True,
    default=QUESTIONS,
    show_default=True,
    help="Asked of each pair: overall, alignment (with the text), look, or a sentence of your own. Repeatable.",
)
@click.option("--ties/--no-ties", default=TIES, show_default=True, help="Whether `no difference` is a choice.")
@click.option(
    "--side", type=click.IntRange(32, 4096), default=SIDE, show_default=True, help="Of the pictures, in pixels."
)
@OVERWRITE
def make(
    report: Path,
    out: Path,
    contestants: str,
    count: int | None,
    seed: int,
    repeat: float,
    protocol: Literal["choice", "grades"],
    questions: tuple[str, ...],
    ties: bool,
    side: int,
    overwrite: bool,
) -> None:
    """Make a page for raters from the pictures of a report. It is one file, which works offline and can be mailed.

    OUT/index.html goes to the raters. OUT/manifest.json tells which picture is whose: keep it until the votes are in.
    """
    from drtune.evaluation.study.build import make as make_study

    names = [name.strip() for name in contestants.split(",")]
    made = make_study(
        report,
        out,
        contestants=names,
        count=count,
        seed=seed,
        repeat=repeat,
        protocol=protocol,
        questions=questions,
        ties=ties,
        side=side,
        overwrite=overwrite,
    )
    num_repeats = sum(pair.repeats is not None for pair in made.pairs)
    num_prompts = len({pair.prompt for pair in made.pairs})
    page = out / "index.html"
    click.echo(
        f"{' against '.join(names)}: {len(made.pairs)} pairs of {num_prompts} prompts, {num_repeats} of them repeats"
    )
    click.echo(f"key: {out / 'manifest.json'} (tells who drew what: not for raters)")
    click.echo(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB: send this one file to your raters)")


@study.command()
@click.argument("votes", type=PATH, nargs=-1, required=True)
@click.option("--study", "folder", type=PATH, default="runs/study", show_default=True, help="The study they are for.")
@click.option("--out", type=PATH, default="runs/study-result", show_default=True, help="Folder for the result.")
@AS_JSON
@OVERWRITE
def count(votes: tuple[Path, ...], folder: Path, out: Path, in_json: bool, overwrite: bool) -> None:
    """Count VOTES, the files that raters sent back. OUT/result.md tells who was preferred, and how surely."""
    from drtune.evaluation.study.summary import as_text
    from drtune.evaluation.study.tally import count as count_votes

    result = count_votes(votes, folder, out, overwrite=overwrite)
    if in_json:
        click.echo(result.manifest(), nl=False)
    else:
        click.echo(as_text(result))
        click.echo(f"result: {out / 'result.md'}")

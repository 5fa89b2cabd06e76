"""The command `drtune score`."""

from __future__ import annotations

from pathlib import Path

import click

from drtune.cli.console import AS_JSON, OVERWRITE, PATH, echo_json
from drtune.errors import UserError

NAMED_AT_MOST = 20
"""Pictures that are named for each reason why pictures were not scored; the table names them all."""


@click.command()
@click.argument("images", type=PATH)
@click.option("--prompts", type=PATH, required=True, help="The prompts' file, in any format of `drtune prompts`.")
@click.option(
    "--reward",
    "rewards",
    metavar="NAME,...",
    multiple=True,
    required=True,
    help="Score by this reward, or by these; your own is FILE.py:FUNCTION. Repeatable.",
)
@click.option("--out", type=PATH, default="runs/scores.csv", show_default=True, help="The table, .csv or .parquet.")
@click.option("--by-order", is_flag=True, help="No field names the pictures: their order is that of the prompts.")
@click.option(
    "--antialias/--no-antialias",
    default=True,
    show_default=True,
    help="Of hps, hps_v2, arniqa and preference; Pillow's is always on.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="NAME=PATH",
    multiple=True,
    help="A file or folder with weights of that reward, in place of the published ones. Repeatable.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures at once.")
@AS_JSON
@OVERWRITE
def score(
    images: Path,
    prompts: Path,
    rewards: tuple[str, ...],
    out: Path,
    by_order: bool,
    antialias: bool,
    checkpoints: tuple[str, ...],
    batch_size: int,
    in_json: bool,
    overwrite: bool,
) -> None:
    """Score pictures that exist. Of those below the folder IMAGES a table is written, with a row a picture.

    A field beside each prompt, such as `image` or `file_name`, names its picture by its path in the folder. Without
    one, --by-order says that the pictures in the order of their names belong to the prompts in theirs: a number in a
    name counts as a number, and there must be as many.

    Pictures that are missing, cannot be opened or have no prompt are named, and stand in the table without scores.
    """
    from drtune.evaluation.score import score_pictures

    names = [name for given in rewards for name in given.split(",")]
    summary = score_pictures(
        images,
        prompts,
        names,
        out,
        by_order=by_order,
        antialias=antialias,
        checkpoints=dict(_named(given) for given in checkpoints),
        batch_size=batch_size,
        overwrite=overwrite,
    )
    if in_json:
        told = {name: getattr(summary, name) for name in ("num_scored", "means", "problems", "provenance")}
        echo_json({**told, "table": str(out)})
        return
    for reason, unscored in summary.problems.items():
        for image in unscored[:NAMED_AT_MOST]:
            click.echo(f"{reason}: {image}" if image else reason, err=True)
        if len(unscored) > NAMED_AT_MOST:
            click.echo(f"{reason}: {len(unscored) - NAMED_AT_MOST} more, see {out}", err=True)
    for name, provenance in summary.provenance.items():
        if provenance:
            click.echo(f"{name}: {provenance}")
    means = ", ".join(f"{name} {mean:.4f}" for name, mean in summary.means.items())
    left_out = ", ".join(f"{len(unscored)} {reason}" for reason, unscored in summary.problems.items())
    click.echo(f"{summary.num_scored} pictures: {means}; not scored: {left_out or 'none'}; table: {out}")


def _named(given: str) -> tuple[str, str]:
    name, separator, path = given.partition("=")
    if not (name and separator and path):
        raise UserError(f"--checkpoint {given}: is no NAME=PATH; give one, such as hps=/models/mine.pt")
    return name, path

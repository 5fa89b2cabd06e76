"""Run the study: every training and every measurement of cost that has no record yet, then the page.

python -m science [--quick] [--out FOLDER] [--page FILE]
"""

from __future__ import annotations

import json
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import click

from drtune.files.local import write_text
from science.design import FULL, QUICK, cells_of
from science.page import cut_pictures, write_page
from science.results import Results, collect
from science.run import run_missing


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A small study of the same build, in under 15 minutes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/science"),
    help="Folder of the records. What is there is not run again: empty it when the code has changed.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="OUT/science.md",
    help="The page that is written, its plots in a folder beside it.",
)
def main(quick: bool, out: Path, page: Path | None) -> None:
    """Try the paper's claims on the miniature, and write a page of what came out.

    Stopped at any time, the same command goes on from where it was.
    """
    scale, folder = (QUICK, out / "quick") if quick else (FULL, out / "full")
    try:
        run_missing(scale, folder)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {folder}, and the same command goes on from there", err=True)
        raise click.exceptions.Exit(128 + signal.SIGINT) from None
    except BrokenProcessPool:
        raise click.ClickException("a worker was killed, as when memory runs out; the same command goes on") from None
    page = page or folder / "science.md"
    records = collect(scale, folder)
    write_page(scale, records, page, f"make science{' QUICK=1' if quick else ''}")
    cut_pictures(Results(scale, records), folder / "cells", page.with_suffix(""))
    write_text(page.with_suffix("") / "records.json", json.dumps(records, separators=(",", ":")))
    click.echo(f"wrote {page} from {len(cells_of(scale))} trainings in {folder}")


if __name__ == "__main__":
    main()

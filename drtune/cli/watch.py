"""The command `drtune watch`."""

from __future__ import annotations

from pathlib import Path

import click

from drtune.cli.console import PATH, TRAINED
from drtune.errors import InterruptionError


@click.command()
@click.argument("run", type=PATH, default=TRAINED)
@click.option("--port", type=click.IntRange(0, 65535), default=6080, show_default=True, help="0: any that is free.")
def watch(run: Path, port: int) -> None:
    """Show a training on a page of this machine. Its curve, newest samples, speed, memory and time left.

    RUN is the folder of `drtune train`, by default runs/train, or of `drtune-pipeline run`; it may go on or be
    finished. The page is for this machine alone and loads nothing from elsewhere. Ctrl-C ends it, not the run.
    """
    from drtune.training.watch import server_of

    with server_of(run, port) as server:
        click.echo(f"watch {run}: http://127.0.0.1:{server.server_port}/ until Ctrl-C")
        try:
            server.serve_forever()
        except InterruptionError:
            return  # as it is meant to end

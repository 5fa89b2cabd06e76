"""`drtune-pipeline monitor`: the monitoring pipeline on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import click

from drtune.cli.console import OVERWRITE, PATH
from drtune.files.output import claimed
from pipelines.cli.options import arguments_of

EXIT_CODES = {"stable": 0, "drifted": 3, "not enough data": 4}
"""By outcome. Not 1: a program that breaks ends with it, and must not be taken for a drift."""


@click.command()
@click.option("--reference", required=True, help="Prompts trained on: a PromptSet, a prompts file or a folder.")
@click.option("--incoming", required=True, help="Prompts that come in: a file, a folder or s3://bucket/prefix.")
@click.option("--scores", help="Table of scores of pictures made now: .csv or .parquet.")
@click.option("--release-scores", help="The same at the last release; both or none.")
@click.option("--policy", help="The thresholds of the checks.  [default: configs/monitor.yaml]")
@click.option("--out", type=PATH, help="Folder for what it makes.  [default: runs/monitor- and the time]")
@OVERWRITE
@click.pass_context
def monitor(ctx: click.Context, /, out: Path | None, overwrite: bool, **given: str | None) -> None:
    """Tell whether incoming prompts, or rewards, have drifted. They are held against those when the model was
    tuned.

    It runs the pipeline that Kubeflow runs on a schedule, on this machine.

    Exit codes: 0 stable, 3 drifted, 4 not enough data; 1 the step failed, 2 something given cannot be used.
    """
    from drtune.contracts import DriftVerdict

    arguments = arguments_of("monitor", given, files=["policy"])
    out = out or Path("runs") / time.strftime("monitor-%Y%m%d-%H%M%S")
    with claimed(out, "PipelineRun", overwrite=overwrite, inputs=given.values()):
        pass  # refused before kfp is imported; asked again, and held, by what writes there
    from pipelines.local.run import run_into
    from pipelines.monitor import monitor as pipeline

    duration = run_into(out, pipeline, arguments, ctx, overwrite=overwrite, inputs=given.values())
    verdict = DriftVerdict.load(out / "verdict")
    click.echo(f"\nreport: {out / 'verdict' / 'report.html'}")
    click.echo(f"{verdict.outcome}, after {duration}: {verdict.reason}")
    ctx.exit(EXIT_CODES[verdict.outcome])

"""The command line of the pipeline: run it here, or compile it for Kubeflow."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from drtune.console import CommandGroup
from drtune.errors import UserError
from drtune.files import claim, write_text
from pipelines import server_commands

PATH = click.Path(path_type=Path)
PACKAGE = Path(__file__).with_name("tune.yaml")
STEPS = "steps"
LOG = "pipeline.log"


@click.group(cls=CommandGroup)
@click.version_option(package_name="drtune")
def main() -> None:
    """Run the pipeline: prepare prompts, train, evaluate, decide, publish.

    Exit codes: 0 done (published or not), 1 a step failed, 2 something given cannot be used.
    """


@main.command()
@click.option("--prompts", help="Prompts file.  [default: data/miniature.jsonl]")
@click.option("--data-revision", help="Commit whose data.dvc the prompts are checked against.")
@click.option("--config", help="YAML file with what differs from the defaults.  [default: configs/miniature.yaml]")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change one key of it. Repeatable.")
@click.option("--policy", help="What must be achieved to be published.  [default: configs/gate.yaml]")
@click.option("--registry", help="A folder, file:// or s3://bucket/prefix.  [default: runs/registry]")
@click.option("--name", help="Name under which the model is published.  [default: miniature-symmetry]")
@click.option("--out", type=PATH, help="Folder for everything the run makes.  [default: runs/ and the time]")
@click.option("--overwrite", is_flag=True, help="Replace the run that stands at OUT.")
@click.pass_context
def run(
    ctx: click.Context, /, out: Path | None, overwrite: bool, overrides: tuple[str, ...], **given: str | None
) -> None:
    """Run the pipeline on this machine, without containers: the same pipeline that Kubeflow runs."""
    from drtune.config import load_config
    from pipelines.local import defaults, run_here
    from pipelines.tune import tune

    arguments = defaults(tune) | {key: value for key, value in given.items() if value is not None}
    arguments["overrides"] = list(overrides)
    load_config(arguments["config"], overrides)  # a mistake in it is best found before the first step
    out = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    _make_room(out, overwrite=overwrite)
    started = time.monotonic()
    with (out / LOG).open("w", encoding="utf-8") as log:
        failure = run_here(tune, out / STEPS, arguments, sys.stdout, log)
    _link_artifacts(out)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    if failure:
        click.echo(f"error: step {failure.step}: {failure.reason}", err=True)
        click.echo(f"(everything it wrote: {out / LOG})", err=True)
        ctx.exit(UserError.exit_code if failure.by_user else 1)
    click.echo(_summary(out, f"{minutes} min {seconds} s"))


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Remove what an earlier run made in `out`, and only that."""
    claim(out, overwrite=overwrite)
    out.mkdir(exist_ok=True)
    for link in filter(Path.is_symlink, out.iterdir()):
        link.unlink()
    if (out / STEPS).exists():
        shutil.rmtree(out / STEPS)


def _link_artifacts(out: Path) -> None:
    """Make `out`/<artifact> lead to where kfp.local put it: steps/<pipeline and time>/<step>/<artifact>."""
    for artifact in (out / STEPS).glob("*/*/*"):
        if artifact.is_dir():
            (out / artifact.name).symlink_to(artifact.relative_to(out), target_is_directory=True)


def _summary(out: Path, duration: str) -> str:
    """What the run came to, in a few lines; the last one says whether the model is published."""
    from drtune.contracts import Decision, RegistryEntry

    decision = Decision.load(out / "decision")
    lines = ["", *decision.reasons, f"report: {out / 'decision' / 'report.html'}", f"model: {out / 'model'}"]
    if decision.publish:
        entry = RegistryEntry.load(out / "entry")
        return "\n".join([*lines, f"published in {duration}: {entry.name} {entry.version} at {entry.uri}"])
    return "\n".join([*lines, f"not published, after {duration}: the decision is in {out / 'decision'}"])


@main.command()
@click.option("--check", is_flag=True, help="Only compare: exit code 1 when pipelines/tune.yaml is out of date.")
@click.pass_context
def compile(ctx: click.Context, check: bool) -> None:
    """Write pipelines/tune.yaml, which is what Kubeflow is given."""
    from pipelines.local import compile_pipeline
    from pipelines.tune import tune

    compiled = compile_pipeline(tune)
    if not check:
        write_text(PACKAGE, compiled)
        click.echo(f"wrote {PACKAGE}")
    elif not PACKAGE.exists() or PACKAGE.read_text(encoding="utf-8") != compiled:
        click.echo(f"error: {PACKAGE} is out of date; run `drtune-pipeline compile` and commit it", err=True)
        ctx.exit(1)


for command in server_commands.COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="drtune-pipeline")

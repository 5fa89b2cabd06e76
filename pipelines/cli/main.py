"""The command line of the pipeline: run it here, or compile it for Kubeflow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from drtune.cli.console import OVERWRITE, PATH, CommandGroup
from drtune.files.local import write_text
from drtune.files.output import claimed
from drtune.publishing import REGISTRY
from pipelines.cli import server
from pipelines.cli.monitor import monitor
from pipelines.cli.options import FOLDER, arguments_of, tuning
from pipelines.cli.register import register
from pipelines.cli.sweep import sweep


@click.group(cls=CommandGroup)
@click.version_option(package_name="drtune")
def main() -> None:
    """Run the pipeline here, or on a Kubeflow server: prepare prompts, train, evaluate, decide, publish.

    Exit codes: 0 done (published or not), 1 a step or run failed, 2 something given cannot be used, 143 or 130 ended by
    SIGTERM or Ctrl-C; `monitor` has more.
    """


@main.command()
@tuning
@click.option("--registry", help=f"A folder, file:// or s3://bucket/prefix.  [default: {REGISTRY}]")
@click.option("--name", help="Name under which the model is published.  [default: miniature-symmetry]")
@click.option("--model-registry", help="Address of Kubeflow's model registry, where it is registered, too.")
@click.option("--out", type=PATH, help="Folder for everything the run makes.  [default: runs/ and the time]")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT where it was ended, or start if there is none.")
@OVERWRITE
@click.pass_context
def run(
    ctx: click.Context,
    /,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    overrides: tuple[str, ...],
    references: tuple[str, ...],
    **given: Any,
) -> None:
    """Run the pipeline on this machine, without containers. It is the same pipeline that Kubeflow runs."""
    from components.checks import check_parameters, check_services
    from components.prepare_prompts.run import refuse_absent
    from drtune.files.given import is_text_itself

    if resume and (overwrite or out is None):
        raise click.UsageError(
            "--resume goes on with what stands at --out, which has to be given; --overwrite replaces it"
        )
    given |= {"overrides": list(overrides), "references": list(references)}
    arguments = arguments_of("tune", given, files=["prompts", "config", "policy"])
    check_parameters(arguments, elsewhere=False)  # a mistake is best found before the first step
    refuse_absent(arguments["prompts"])
    out = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    places = [reference.partition("=")[2] for reference in references]
    files = [arguments[key] for key in ("prompts", "config", "policy", "registry")]
    inputs = [*(file for file in files if not is_text_itself(file)), *places]
    with claimed(out, "PipelineRun", overwrite=overwrite or resume, inputs=inputs):
        pass  # refused before kfp is imported; asked again, and held, by what writes there
    check_services(arguments)
    from pipelines.local.resume import state_of

    state = state_of(arguments, out)
    from pipelines.local.run import run_into
    from pipelines.tune import tune

    duration = run_into(out, tune, arguments, ctx, overwrite=overwrite, resume=resume, inputs=inputs, state=state)
    click.echo(_summary(out, duration))


def _summary(out: Path, duration: str) -> str:
    """What the run came to, in a few lines; the last one says whether the model is published."""
    from drtune.contracts import Decision, RegistryEntry

    decision = Decision.load(out / "decision")
    lines = ["", f"model: {out / 'model'}", f"report: {out / 'decision' / 'report.html'}"]
    if decision.publish:
        entry = RegistryEntry.load(out / "entry")
        return "\n".join([*lines, f"published in {duration}: {entry.name} {entry.version} at {entry.uri}"])
    failed = sum(not check.passed for check in decision.checks)
    return "\n".join([*lines, f"not published, after {duration}: {failed} of {len(decision.checks)} rules refused it"])


@main.command()
@click.option("--check", is_flag=True, help="Only compare: exit code 1 when one of the files is out of date.")
@click.pass_context
def compile(ctx: click.Context, check: bool) -> None:
    """Write the compiled pipelines, which Kubeflow is given. They are pipelines/tune.yaml, monitor.yaml and
    retrain.yaml.
    """
    from pipelines.local.run import compile_pipeline
    from pipelines.monitor import monitor
    from pipelines.retrain import retrain
    from pipelines.tune import tune

    for pipeline in (tune, monitor, retrain):
        package = FOLDER / f"{pipeline.name}.yaml"
        compiled = compile_pipeline(pipeline)
        if not check:
            write_text(package, compiled)
            click.echo(f"wrote {package}")
        elif not package.exists() or package.read_text(encoding="utf-8") != compiled:
            click.echo(f"error: {package} is out of date; run `drtune-pipeline compile` and commit it", err=True)
            ctx.exit(1)


for command in (sweep, monitor, register, *server.COMMANDS):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="drtune-pipeline")

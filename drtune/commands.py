"""The command line of the library: every step of the pipeline, alone.

Each command imports what it needs itself, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from drtune.console import CommandGroup
from drtune.errors import UserError
from drtune.files import claim, write_text

PATH = click.Path(path_type=Path)
OVERRIDES = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one key of the configuration, as in method.trained_steps=2. Repeatable.",
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what stands at the output.")
REGISTRY = click.option(
    "--registry",
    "uri",
    default="runs/registry",
    show_default=True,
    help="A folder, file:// or s3://bucket/prefix.",
)


@click.group(cls=CommandGroup)
@click.version_option(package_name="drtune")
def main() -> None:
    """Tune a text-to-image diffusion model on a reward, and decide whether the result deserves to be published.

    The steps in their order are prompts, train, evaluate, decide and publish; the output of one is by default the input
    of the next. `drtune-pipeline run` does them all.

    Exit codes: 0 done, 1 failed, 2 something given cannot be used.
    """


@main.command()
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for the prompt set.")
@OVERWRITE
def prompts(source: Path, out: Path, overwrite: bool) -> None:
    """Check, de-duplicate and split the prompts in SOURCE (.txt, .csv, .tsv, .json, .jsonl or .parquet)."""
    from drtune.prompts import prepare

    prepared = prepare(source, out, overwrite=overwrite)
    refused = ", ".join(f"{count} {reason}" for reason, count in prepared.problems.items())
    click.echo(
        f"{prepared.num_train} prompts to train on, {prepared.num_eval} held out; not taken: {refused or 'none'}"
    )
    click.echo(f"prompt set: {out}")


@main.command()
@click.option("--config", type=PATH, help="YAML file with what differs from the defaults.")
@click.option(
    "--prompts",
    type=PATH,
    help="A prompt set, or a raw prompts file, which is prepared into OUT.prompts first. "
    "[default: captions of the miniature's world]",
)
@OVERRIDES
@click.option("--out", type=PATH, default="runs/train", show_default=True, help="Folder for the tuned model.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in OUT.")
@OVERWRITE
def train(
    config: Path | None, prompts: Path | None, overrides: tuple[str, ...], out: Path, resume: bool, overwrite: bool
) -> None:
    """Tune a LoRA on the rewards of the configuration.

    With processes=N in the configuration it starts N data-parallel processes on this machine; on a cluster torchrun
    starts it as `torchrun -m drtune.train` with the same options.
    """
    from drtune.config import load_config

    if resume and overwrite:
        raise click.UsageError("--resume keeps what stands at the output, --overwrite replaces it: give one of them")
    settings = load_config(config, overrides)
    if "WORLD_SIZE" not in os.environ:  # nobody has started processes for us yet
        claim(out, overwrite=resume or overwrite)
        prompts = _prompt_set(prompts, Path(f"{out}.prompts"), settings.base_model)
        if settings.processes > 1:
            options = [f"--config={config}"] if config else []
            options += [f"--set={override}" for override in overrides]
            options += [flag for flag, given in {"--resume": resume, "--overwrite": overwrite}.items() if given]
            _start_processes(settings.processes, [*options, f"--prompts={prompts}", f"--out={out}"])
            return
    if prompts is None:
        raise click.UsageError("--prompts: started by torchrun it needs a prompt set, which `drtune prompts` makes")
    from drtune.trainer import train as tune

    model = tune(settings, prompts, out, resume=resume, overwrite=overwrite)
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"tuned model: {out} ({model.step} updates, reward {model.reward:.3f})")


def _prompt_set(given: Path | None, out: Path, base_model: str) -> Path:
    """The folder of the prompt set to train on; a raw file is prepared into `out`."""
    from drtune.contracts import MANIFEST
    from drtune.prompts import prepare

    if given is None:
        if base_model != "miniature":
            raise UserError(f"base_model={base_model!r} has no prompts of its own: give --prompts")
        from drtune.miniature.world import scenes

        given = Path(f"{out}.txt")
        write_text(given, "".join(f"{scene.caption}\n" for scene in scenes(seed=7, count=1000)))
    if (given / MANIFEST).exists():
        return given
    prepare(given, out, overwrite=True)
    return out


def _start_processes(processes: int, options: list[str]) -> None:
    """Run `drtune train` in data-parallel processes on this machine; end as the first that failed did."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The cores are shared out; without this torchrun gives each process one thread, and says so in four lines.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={processes}", "-m", "drtune.train", *options]))
    except ChildFailedError as failure:
        _, first = failure.get_first_failure()
        raise SystemExit(first.exitcode) from None


@main.command()
@click.option("--model", type=PATH, default="runs/train", show_default=True, help="A tuned model.")
@click.option("--prompts", type=PATH, help="A prompt set, whose held-out prompts are used.  [default: MODEL.prompts]")
@click.option("--out", type=PATH, default="runs/report", show_default=True, help="Folder for the report.")
@OVERRIDES
@OVERWRITE
def evaluate(model: Path, prompts: Path | None, out: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Compare a tuned model with its base on the same prompts and seeds; OUT/report.html shows the result."""
    from drtune.evaluation import evaluate as compare

    report = compare(model, prompts or Path(f"{model}.prompts"), out, overrides=overrides, overwrite=overwrite)
    for score in report.scores:
        if score.category is None:
            click.echo(
                f"{score.reward}: {score.base_mean:.3f} -> {score.candidate_mean:.3f}, "
                f"better on {score.win_rate:.0%} of {score.num_prompts} prompts"
            )
    click.echo(f"report: {out / 'report.html'}")


@main.command()
@click.option("--report", type=PATH, default="runs/report", show_default=True, help="An evaluation report.")
@click.option("--policy", type=PATH, default="configs/gate.yaml", show_default=True, help="What must be achieved.")
@click.option("--out", type=PATH, default="runs/decision", show_default=True, help="Folder for the decision.")
@OVERWRITE
@click.pass_context
def decide(ctx: click.Context, report: Path, policy: Path, out: Path, overwrite: bool) -> None:
    """Hold a report against a policy. Exit code 0: worth publishing, 1: refused; the reasons are printed."""
    from drtune.contracts import EvaluationReport
    from drtune.gate import decide as judge
    from drtune.gate import load_policy

    claim(out, overwrite=overwrite)
    decision = judge(EvaluationReport.load(report), load_policy(policy))
    decision.save(out)
    click.echo("\n".join(["publish" if decision.publish else "do not publish", *decision.reasons]))
    ctx.exit(0 if decision.publish else 1)


@main.command()
@click.option("--model", type=PATH, default="runs/train", show_default=True, help="A tuned model.")
@click.option("--report", type=PATH, default="runs/report", show_default=True, help="Its evaluation report.")
@click.option("--decision", type=PATH, default="runs/decision", show_default=True, help="The decision on the report.")
@click.option("--name", required=True, help="Name under which the model is published.")
@REGISTRY
def publish(model: Path, report: Path, decision: Path, name: str, uri: str) -> None:
    """Put a model into the registry as a new version and make it the one in production."""
    from drtune.registry import Registry

    entry = Registry(uri).publish(name, model, report, decision)
    click.echo(f"published: {entry.name} {entry.version} at {entry.uri}")


@main.group()
def registry() -> None:
    """Look at published models, take one out, or go back to an earlier version."""


@registry.command("list")
@click.argument("name", required=False)
@REGISTRY
def list_versions(name: str | None, uri: str) -> None:
    """List the published versions, of one NAME or of all."""
    from drtune.registry import Registry

    for entry in Registry(uri).list(name):
        click.echo(f"{entry.name} {entry.version} {entry.uri}")


@registry.command()
@click.argument("name")
@click.argument("version", default="production")
@REGISTRY
def show(name: str, version: str, uri: str) -> None:
    """Print the manifest of a VERSION of NAME (default: the one in production)."""
    from drtune.registry import Registry

    click.echo(Registry(uri).show(name, version).manifest(), nl=False)


@registry.command()
@click.argument("name")
@click.argument("version", required=False)
@REGISTRY
def rollback(name: str, version: str | None, uri: str) -> None:
    """Put VERSION of NAME back into production (default: the one before)."""
    from drtune.registry import Registry

    entry = Registry(uri).rollback(name, version)
    click.echo(f"in production: {entry.name} {entry.version}")


@registry.command()
@click.argument("name")
@click.argument("version", default="production")
@click.option("--out", type=PATH, required=True, help="Folder for the model.")
@REGISTRY
@OVERWRITE
def pull(name: str, version: str, out: Path, uri: str, overwrite: bool) -> None:
    """Download a VERSION of NAME (default: the one in production) and verify every file."""
    from drtune.registry import Registry

    entry = Registry(uri).pull(name, version, out, overwrite=overwrite)
    click.echo(f"pulled: {entry.name} {entry.version} to {out}")


if __name__ == "__main__":
    main(prog_name="drtune")

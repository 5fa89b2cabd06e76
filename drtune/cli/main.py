"""The command line of the library: every step of the pipeline, alone.

Each command imports what it needs itself, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from drtune.cli import evaluation, registry, score, seeds, study, training, watch
from drtune.cli.console import (
    AS_JSON,
    CONFIG_FILE,
    MODEL,
    OVERRIDES,
    OVERWRITE,
    PATH,
    TRAINED,
    CommandGroup,
    Number,
    echo_json,
)
from drtune.errors import UserError
from drtune.files.output import claimed

NAMED_AT_MOST = 5
"""Near-duplicates that are shown; a file names them all."""


@click.group(cls=CommandGroup)
@click.version_option(package_name="drtune")
def main() -> None:
    """Tune a text-to-image diffusion model on a reward, and decide whether the result deserves to be published.

    The steps in their order are prompts, train, evaluate, decide and publish; from train on the output of one is by
    default the input of the next. `drtune-pipeline run` does them all.

    Exit codes: 0 done, 1 failed, or the answer is no (`decide`, `run-demo`, `plan --gpu`), 2 something given cannot be
    used, 143 or 130 ended by SIGTERM or Ctrl-C; a training saves its state first.
    """


@main.command()
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for the prompt set.")
@click.option("--held-out", is_flag=True, help="Take them all to evaluate on, as those of a benchmark.")
@OVERWRITE
def prompts(source: Path, out: Path, held_out: bool, overwrite: bool) -> None:
    """Check, de-duplicate and split prompts. SOURCE is .txt, .csv, .tsv, .json, .jsonl or .parquet.

    Or a data set of the hub: hf://datasets/OWNER/NAME, with ?split=SPLIT&column=COLUMN if need be.
    """
    from drtune.prompts.datasets import source_of
    from drtune.prompts.prepare import NEAR_DUPLICATES, prepare

    prepared = prepare(source_of(source), out, held_out=held_out, overwrite=overwrite)
    click.echo(prepared.told)
    for line in (out / NEAR_DUPLICATES).read_text(encoding="utf-8").splitlines()[:NAMED_AT_MOST]:
        pair = json.loads(line)
        click.echo(f"held out {pair['held_out']!r} is nearly {pair['trained']!r}")
    if prepared.near_duplicates > NAMED_AT_MOST:
        click.echo(f"the others stand in {out / NEAR_DUPLICATES}")
    click.echo(f"prompt set: {out}")


@main.command()
@CONFIG_FILE
@OVERRIDES
@click.option("--gpu", metavar="SIZE", help="Memory of one GPU, as in 80GiB: tell whether the run fits.")
@click.option("--processes", type=int, help="GPUs of the run, on all its nodes.  [default: as the configuration says]")
@click.option("--json", "in_json", is_flag=True, help="Print all numbers as JSON, in bytes.")
@click.pass_context
def plan(
    ctx: click.Context,
    config: Path | None,
    overrides: tuple[str, ...],
    gpu: str | None,
    processes: int | None,
    in_json: bool,
) -> None:
    """Tell what a run will cost, in work and memory. Neither its weights nor a GPU are needed.

    With --gpu the exit code is 0 if the run fits and 1 if it does not; then changes that make it fit are looked for.
    """
    from drtune.config import load_config
    from drtune.training.plan.published import configs_of
    from drtune.training.plan.units import parse_bytes

    if processes is not None:
        overrides = (*overrides, f"processes={processes}")
    settings = load_config(config, overrides)
    size = parse_bytes(gpu) if gpu is not None else None
    configs_of(settings.base_model)  # before the ten seconds that torch takes to be imported
    from drtune.training.plan.estimate import estimate, remedy
    from drtune.training.plan.table import as_json, as_text, verdict

    made = estimate(settings)
    if not in_json:
        click.echo(as_text(made))
    fits = size is None or made.fits(size)
    found = None if size is None or fits else remedy(made, size, lambda text: click.echo(text, err=True))
    if in_json:
        click.echo(as_json(made, size, found))
    elif size is not None:
        click.echo(verdict(made, size, found))
    ctx.exit(0 if fits else 1)


@main.command()
@click.option("--model", type=PATH, help=f"A tuned model.  [default: {TRAINED}]")
@click.option("--base-model", metavar="NAME", help="Draw with this base alone: a hub id, a folder, or miniature.")
@click.option("--prompt", "texts", metavar="TEXT", multiple=True, help="Draw this. Repeatable.")
@click.option("--prompts", type=PATH, help="A file with prompts, in any format of `drtune prompts`.")
@click.option("--out", type=PATH, default="runs/samples", show_default=True, help="Folder for the pictures.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the noise.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Pictures of each prompt.")
@click.option("--height", type=click.IntRange(8), help="Of the pictures, in pixels.  [default: as it was tuned]")
@click.option("--width", type=click.IntRange(8), help="Likewise.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampler steps.  [default: as in the model's evaluation]")
@click.option("--guidance-scale", type=Number(min=0), help="Guidance.  [default: likewise]")
@click.option(
    "--lora-scale", type=Number(-10, 10), default=1.0, show_default=True, help="0 is the base, 1 the tuned model."
)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="[default: as it was tuned]")
@click.option("--compare", is_flag=True, help="Draw with the base as well, and put both side by side in OUT/grid.png.")
@click.option("--grid", is_flag=True, help="Put all pictures on one sheet, OUT/grid.png.")
@OVERWRITE
def sample(
    model: Path | None,
    base_model: str | None,
    texts: tuple[str, ...],
    prompts: Path | None,
    out: Path,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Draw pictures with a tuned model, or with a base alone. The same options draw the same pictures."""
    if model is not None and base_model is not None:
        raise click.UsageError("--model brings its base with it: give --model or --base-model")
    if base_model is not None and settings["compare"]:
        raise click.UsageError("--compare holds a tuned model against its base: give --model")
    if bool(texts) == (prompts is not None):
        raise click.UsageError("give what to draw: --prompt TEXT, once or more, or --prompts FILE")
    if base_model is not None:
        from drtune.models.index import read_index

        read_index(base_model)  # before the ten seconds that torch takes to be imported
    from drtune.models.sample_set import SampleSettings, write_sample_set
    from drtune.prompts.prepare import read_prompts

    drawn = write_sample_set(
        read_prompts(prompts) if prompts else texts,
        out,
        SampleSettings(**settings),
        model_folder=None if base_model else model or Path(TRAINED),
        base_model=base_model,
        prompts_file=prompts,
        overwrite=overwrite,
    )
    click.echo(f"pictures: {len(drawn.pictures)} in {out}")


@main.command()
@MODEL
@click.option(
    "--format",
    "form",
    type=click.Choice(["diffusers", "kohya", "merged"]),
    required=True,
    help="A LoRA file for diffusers, one for ComfyUI and others, or a whole pipeline.",
)
@click.option("--out", type=PATH, required=True, help="The .safetensors file, or for `merged` the folder.")
@OVERWRITE
def export(model: Path, form: str, out: Path, overwrite: bool) -> None:
    """Write a tuned model in a format of other programs."""
    from drtune.models.tuned import open_tuned

    with claimed(out, "MergedPipeline" if form == "merged" else None, overwrite=overwrite, inputs=[model]):
        open_tuned(model)  # before the ten seconds that the rest takes to be imported
    from drtune.models.export import export as write

    write(model, form, out, overwrite=overwrite)
    click.echo(f"{form}: {out}")


@main.command()
@OVERRIDES
@click.option("--out", type=PATH, default="runs/demo", show_default=True, help="Folder for all that comes of it.")
@OVERWRITE
@click.pass_context
def run_demo(ctx: click.Context, overrides: tuple[str, ...], out: Path, overwrite: bool) -> None:
    """Tune the embedded miniature, evaluate it and decide. It takes minutes, for symmetry, and nothing else is
    needed.

    OUT/decision/report.html shows what came of it. Exit code 0: worth publishing, 1: refused.
    """
    brought, model, report = files("drtune.cli").joinpath("demo"), out / "model", out / "report"
    with as_file(brought) as demo:
        ctx.invoke(training.train, config=demo / "miniature.yaml", overrides=overrides, out=model, overwrite=overwrite)
        ctx.invoke(evaluation.evaluate, model=model, out=report, overwrite=overwrite)
        ctx.invoke(
            evaluation.decide, report=report, policy=demo / "gate.yaml", out=out / "decision", overwrite=overwrite
        )


@main.command("config")
@click.argument("word", required=False, default="")
@AS_JSON
def list_settings(word: str, in_json: bool) -> None:
    """Explain the settings of a configuration. Each with its default, type and meaning; with WORD those in which it
    stands.

    Any of them can be given to `drtune train` as --set KEY=VALUE, or stand in the file of --config.
    """
    from drtune.config.listing import settings

    found = settings(word)
    if not found:
        raise UserError(f"config {word!r}: no setting has this word; `drtune config` lists them all")
    if in_json:
        echo_json([asdict(one) for one in found])
        return
    for one in found:
        click.echo(f"{one.key} = {one.default}".rstrip() + f"  ({one.type})")
        click.echo(click.wrap_text(one.meaning, initial_indent="    ", subsequent_indent="    "))


for command in (
    training.train,
    evaluation.evaluate,
    evaluation.decide,
    score.score,
    watch.watch,
    study.study,
    seeds.seeds,
    registry.publish,
    registry.push,
    registry.registry,
):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="drtune")

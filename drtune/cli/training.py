"""The command `drtune train`."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from drtune.cli.console import CONFIG_FILE, OVERRIDES, OVERWRITE, PATH, TRAINED
from drtune.errors import InterruptionError, UserError
from drtune.files.local import read_given, write_text
from drtune.files.output import claimed, unless_begun
from drtune.files.webhook import check_address, telling

if TYPE_CHECKING:
    from drtune.config import Config


@click.command()
@CONFIG_FILE
@click.option(
    "--prompts",
    type=PATH,
    help="A prompt set, or a raw prompts file or hf://datasets/OWNER/NAME, which is prepared into OUT.prompts first. "
    "[default: captions of the miniature's world]",
)
@click.option(
    "--reward",
    "rewards",
    metavar="NAME[=WEIGHT]",
    multiple=True,
    help="Tune on this reward instead of the configuration's; your own is FILE.py:FUNCTION. Repeatable.",
)
@OVERRIDES
@click.option("--out", type=PATH, default=TRAINED, show_default=True, help="Folder for the tuned model.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT, or start if there is none.")
@click.option(
    "--mirror",
    metavar="URI",
    help="Keep a copy of OUT at s3://bucket/prefix or in a folder. At the start OUT is made equal to it, if it is "
    "further on; at each checkpoint and at the end the copy is made equal to OUT. It implies --resume.",
)
@click.option(
    "--webhook",
    metavar="URL",
    envvar="DRTUNE_WEBHOOK",
    help="Post a JSON message there at the end: finished, stopped or failed. It is not kept; also from DRTUNE_WEBHOOK.",
)
@OVERWRITE
def train(
    config: Path | None,
    prompts: Path | None,
    rewards: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path,
    resume: bool,
    mirror: str | None,
    webhook: str | None,
    overwrite: bool,
) -> None:
    """Tune a LoRA, or the whole network with weights=full. What is maximised are the rewards of the configuration.

    With processes=N in the configuration it starts N data-parallel processes on this machine; by itself, one for each
    core for the miniature without a GPU. For many machines start `torchrun ... -m drtune.training.worker` on each.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "drtune train: starts its processes itself; with torchrun start -m drtune.training.worker --config=FILE "
            "--prompts=PROMPT_SET --out=FOLDER"
        )
    from drtune.config import load_config
    from drtune.models.index import read_index
    from drtune.models.start import read_start
    from drtune.training.checks import base_commit, check_start

    if (resume or mirror) and overwrite:
        raise click.UsageError("--resume and --mirror keep what stands at the output, --overwrite replaces it")
    check_address(webhook)
    if rewards:  # before the others, which may bend them
        overrides = (f"rewards={json.dumps(dict(map(_reward_term, rewards)), ensure_ascii=False)}", *overrides)
    settings = load_config(config, overrides)
    check_start(settings)
    goes_on = resume or mirror is not None
    inputs = [prompts, mirror, config if overwrite else None]
    with ExitStack() as held:
        # Let go of then: the process that trains holds it, and may outlive this one.
        with claimed(out, "TrainingRun", overwrite=goes_on or overwrite, inputs=inputs) as out:
            place = Path(f"{out}.prompts")
            if not (goes_on and out.exists()):
                held.enter_context(unless_begun(out, place, Path(f"{place}.txt")))
            prompts = prompt_set(prompts, place, settings, goes_on=goes_on, overwrite=overwrite)
        # Before the ten seconds that torch takes to be imported.
        read_index(settings.base_model, base_commit(settings, out if goes_on else None))
        read_start(settings)
        _tune(settings, prompts, out, webhook, resume=resume, mirror=mirror, overwrite=overwrite)


def _tune(
    settings: Config,
    prompts: Path,
    out: Path,
    webhook: str | None,
    *,
    resume: bool,
    mirror: str | None,
    overwrite: bool,
) -> None:
    """Train in this process, or in as many as the settings have."""
    from drtune.contracts import TunedModel
    from drtune.training.torchrun import settled

    settings = settled(settings, out if resume or mirror else None)
    with telling(webhook, f"drtune train {out}", lambda: TunedModel.load(out).told):
        if settings.process_count > 1:
            click.echo(f"train: starting {settings.process_count} processes")
            options = [f"--prompts={prompts}", f"--out={out}", *([f"--mirror={mirror}"] if mirror else [])]
            options += [flag for flag, given in {"--resume": resume, "--overwrite": overwrite}.items() if given]
            _start_workers(settings, options)
            return
        from drtune.training.summary import last_words
        from drtune.training.trainer import train as tune

        model = tune(settings, prompts, out, resume=resume, overwrite=overwrite, mirror=mirror)
        click.echo(last_words(model, out))


def _reward_term(given: str) -> tuple[str, dict[str, str]]:
    """NAME or NAME=WEIGHT as an entry of `rewards` in the configuration, which checks both."""
    name, equals, weight = given.partition("=")
    return name, {"weight": weight} if equals else {}


def prompt_set(given: Path | None, out: Path, settings: Config, *, goes_on: bool, overwrite: bool) -> Path:
    """The folder of the prompt set to train on; a raw file is prepared into `out`, where a run that goes on has one."""
    from drtune.contracts import MANIFEST
    from drtune.prompts.datasets import is_prepared, source_of
    from drtune.prompts.prepare import prepare

    if given is None:
        if settings.base_model != "miniature":
            raise UserError(f"base_model={settings.base_model!r} has no prompts of its own: give --prompts")
        from drtune.models.miniature.world import scenes

        given = Path(f"{out}.txt")
        captions = "".join(f"{scene.caption}\n" for scene in scenes(seed=7, count=1000))
        if not given.exists():
            write_text(given, captions)
        elif read_given(given) != captions.encode():
            raise UserError(f"{given}: holds something else than the captions to be written there; give another --out")
    if (given / MANIFEST).exists():
        return given
    if not is_prepared(given, out, goes_on=goes_on):
        prepare(source_of(given), out, overwrite=overwrite)
    return out


def _start_workers(settings: Config, options: list[str]) -> None:
    """Run data-parallel processes on this machine; end as the first that failed did."""
    from drtune.contracts import CONFIG
    from drtune.training.torchrun import ProcessesFailedError, run_workers

    with TemporaryDirectory(prefix="drtune-") as folder:
        config = Path(folder) / CONFIG
        config.write_text(settings.to_yaml(), encoding="utf-8")
        try:
            run_workers(settings.process_count, [f"--config={config}", *options], options=["--standalone"])
        except (ProcessesFailedError, InterruptionError) as ended:  # the process itself has told why, if it could
            if ended.exit_code == 128 + signal.SIGKILL:
                told = "it was killed, perhaps for want of memory (compute.micro_batch_size makes it less)"
                click.echo(f"{ended}: {told}; --resume goes on", err=True)
            raise SystemExit(ended.exit_code) from None

"""One process of a run: `torchrun ... -m drtune.training.worker --config=FILE --prompts=FOLDER --out=FOLDER`.

`drtune train` starts it for a run on one machine, drtune/training/node.py on each node of a cluster, and a person with
torchrun on many nodes. It does not prepare prompts and takes no --set: all processes read the same configuration.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from drtune.lifetime import as_command

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=PATH, required=True, help="YAML file with what differs from the defaults.")
@click.option("--prompts", type=PATH, required=True, help="A prompt set, which `drtune prompts` makes.")
@click.option("--out", type=PATH, required=True, help="Folder for the tuned model, which all nodes see.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT, or start if there is none.")
@click.option("--overwrite", is_flag=True, help="Replace what stands at the output.")
@click.option("--mirror", metavar="URI", help="Keep OUT there too, for nodes that share no disk. It implies --resume.")
def main(config: Path, prompts: Path, out: Path, resume: bool, overwrite: bool, mirror: str | None) -> None:
    """Take one process's share of a run; torchrun starts this in each."""
    with as_command(with_parent=True):  # torchrun, which cannot pass on that it was killed
        from drtune.config import load_config

        settings = load_config(config)
        from drtune.training.summary import last_words
        from drtune.training.trainer import train

        model = train(settings, prompts, out, resume=resume, overwrite=overwrite, mirror=mirror)
        if os.environ.get("RANK", "0") == "0":  # all processes end alike: one says so
            click.echo(last_words(model, out))


if __name__ == "__main__":
    main()

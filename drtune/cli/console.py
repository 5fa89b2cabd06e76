"""What the command lines share: options, and how a mistake of the user is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from drtune.files.local import is_text
from drtune.lifetime import as_command

PATH = click.Path(path_type=Path)
TRAINED, REPORTED, DECIDED = "runs/train", "runs/report", "runs/decision"
"""Where a command writes, and the next ones read, unless they are told otherwise."""
CONFIG_FILE = click.option("--config", type=PATH, help="YAML file with what differs from the defaults.")
MODEL = click.option("--model", type=PATH, default=TRAINED, show_default=True, help="A tuned model.")
REPORT = click.option("--report", type=PATH, default=REPORTED, show_default=True, help="An evaluation report.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what stands at the output.")
OVERRIDES = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one key of the configuration, as in method.trained_steps=2. Repeatable.",
)
AS_JSON = click.option("--json", "in_json", is_flag=True, help="Print what came of it as JSON.")


def echo_json(value: Any) -> None:
    """Print a value of mappings, lists and finite numbers."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class Number(click.FloatRange):
    """A finite number; nan and inf would pass click's own range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class CommandGroup(click.Group):
    """A group of commands that answers a user's mistake with one line `error: ...` and its exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what no file, table or page can hold, and take the others."""
        for one in args:
            if not is_text(one):
                raise click.UsageError(f"{one!a} is not UTF-8, or holds a NUL", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with as_command():
            return super().invoke(ctx)

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


def seeds_of(_ctx: click.Context | None, _param: click.Parameter | None, given: str | None) -> list[int] | None:
    """The seeds of an option: how many, from 0 on, or which, as in 5,0,1; two different ones or more.

    Raises:
        BadParameter: they are not.
    """
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{given!r} is neither how many, as in 3, nor which, as in 0,1,2.")
    numbers = list(map(int, parts))
    if len(numbers) == 1:
        numbers = list(range(numbers[0]))
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise click.BadParameter(f"{given!r} are not two different seeds or more.")
    return numbers


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

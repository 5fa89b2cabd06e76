"""What the command lines share: options, and how a mistake of the user is shown."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click

from drtune.errors import InterruptionError, UserError

PATH = click.Path(path_type=Path)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what stands at the output.")
OVERRIDES = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one key of the configuration, as in method.trained_steps=2. Repeatable.",
)

_PLACES_THAT_CANNOT_BE_WRITTEN = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "give another place",
    errno.EACCES: "give another place",
}


class CommandGroup(click.Group):
    """A group of commands that answers a user's mistake with one line `error: ...` and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        # Only transformers' errors are news; it reads this when it is first imported, by the command.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
        except InterruptionError as interrupted:
            if os.environ.get("RANK", "0") == "0":  # all processes of a run end alike: one says so
                click.echo(str(interrupted), err=True)
            raise click.exceptions.Exit(interrupted.exit_code) from None
        except OSError as error:
            if (fix := _PLACES_THAT_CANNOT_BE_WRITTEN.get(error.errno or 0)) is None:
                raise
            click.echo(f"error: {error.filename or 'output'}: {error.strerror}; {fix}", err=True)
        raise click.exceptions.Exit(UserError.exit_code)

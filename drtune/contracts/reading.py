"""What cannot be read in files that others may have changed, told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from drtune.errors import UserError
from drtune.files.local import read_given

Value = TypeVar("Value")


def problem_in(error: ValidationError, whole: str) -> str:
    """The first thing that is wrong: a field, or what is called `whole` where it is none of them, and why."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or whole
    return " ".join(f"{where}: {first['msg']}".split())


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file but for one that is cut short; none of a file that is not there."""
    lines = read_given(path).splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def read_lines(path: Path, kind: type[Value], *, fix: str) -> list[Value]:
    """The value in JSON on each of a file's `whole_lines`, as a run writes one after the other.

    Raises:
        UserError: a line holds none; the message ends with the `fix`.
    """
    values, adapter = [], TypeAdapter(kind)
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            values.append(adapter.validate_json(line))
        except ValidationError as error:
            raise UserError(f"{path}: line {number} is damaged ({problem_in(error, 'the line')}); {fix}") from None
    return values

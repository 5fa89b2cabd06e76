"""A configuration from a file and from `key=value` strings; every mistake in them is told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from drtune.config.tree import Config
from drtune.errors import UserError
from drtune.sections import Section

Kind = TypeVar("Kind", bound=Section)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, overlaid by a YAML file, overlaid by dotted `key=value` strings, validated as a whole.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value has the wrong type, or the whole is impossible.

    >>> load_config(None, ["steps=20", "method.trained_steps=2"]).method.trained_steps
    2
    """
    return load_section(Config, path, overrides)


def load_section(kind: type[Kind], path: str | Path | None, overrides: Sequence[str] = ()) -> Kind:
    """A tree of any kind: its defaults, overlaid by a YAML file, overlaid by dotted `key=value` strings.

    Raises:
        UserError: as `load_config`.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_one_line(problem, kind) for problem in error.errors())) from None


def differences(here: Config, there: Config) -> list[str]:
    """Dotted keys in which two configurations differ, each with both values."""
    mine, theirs = _flatten(here.model_dump(mode="json")), _flatten(there.model_dump(mode="json"))
    return [
        f"{key} ({mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there)"
        for key in sorted(mine | theirs)
        if mine.get(key) != theirs.get(key)
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"config {path}: holds {type(tree).__name__}, wanted keys with values")
    return tree or {}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r}: wanted key=value, as in --set steps=80")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value") from None
    *parents, last = key.split(".")
    for parent in parents:
        branch = tree.setdefault(parent, {})
        if not isinstance(branch, dict):
            raise UserError(f"--set {override!r}: {parent} is a single value and has no {last}")
        tree = branch
    tree[last] = value


def _one_line(problem: Any, kind: type[BaseModel]) -> str:
    """A pydantic error as one line: the key, what is wrong, the value that was given."""
    loc, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    if loc[-1:] == ("[key]",):
        return f"{loc[0]}: {message}"
    key = ".".join(map(str, loc))
    key = key if key.isprintable() else repr(key)
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key; the keys are {', '.join(_keys_beside(kind, loc))}"
    return f"{key}={problem['input']!r}: {message}" if key else message


def _keys_beside(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The legal keys of the section in which an unknown key was found."""
    section = kind
    for name in map(str, loc[:-1]):
        if name in section.model_fields:  # else it is the key of a mapping or a number in a list, of such sections
            section = _section_in(section.model_fields[name].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section in `Section`, `Section | None`, `dict[str, Section]` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

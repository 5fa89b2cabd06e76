"""A configuration from a file and from `key=value` strings; every mistake in them is told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from drtune.config.sections import Kind, Section, is_section, plain, read_tree, shown, validated
from drtune.config.text import Unquoted, read_yaml
from drtune.config.tree import Config
from drtune.errors import UserError


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, overlaid by a YAML file, overlaid by dotted `key=value` strings, validated as a whole.

    The file may be on S3, or given as its text: see `drtune.files.given.read_place`.

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
    tree = read_tree("config", path) if path is not None else {}
    for override in overrides:
        _apply(kind, tree, override)
    return validated(kind, tree)


def differences(here: Config, there: Config) -> list[str]:
    """Dotted keys in which two configurations differ, each with both values."""
    mine, theirs = _flatten(here.model_dump(mode="json")), _flatten(there.model_dump(mode="json"))
    return [
        f"{key} ({mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there)"
        for key in sorted(mine | theirs)
        if mine.get(key) != theirs.get(key)
    ]


def _apply(kind: type[Section], tree: dict[str, Any], override: str) -> None:
    """Lay `key=value` over a tree of strings; the fields say where a key is split, and where a value is YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {shown(override)}: wanted key=value, as in --set steps=80")
    name, rest, inside = _split(kind, key)
    while rest:
        branch = _branch(tree.get(name), inside)
        if branch is None:
            raise UserError(f"--set {shown(override)}: {name} is a single value and has no {rest}")
        tree[name] = branch
        tree = branch
        name, rest, inside = _split(inside, rest)
    try:
        tree[name] = read_yaml(text) if _is_container(inside) else Unquoted(text)
    except ValueError as error:
        raise UserError(f"--set {shown(override)}: {error}") from None


def _branch(there: Any, annotation: Any) -> dict[str, Any] | None:
    """What stands in the tree as a dict, to which a key below it can be added; None: it takes none."""
    if isinstance(there, dict):
        return there
    kind = plain(annotation)
    if there is None or there == "null":
        return {} if _is_container(kind) or kind is Any else None
    return {kind.short_for: there} if is_section(kind) and kind.short_for else None


def _split(annotation: Any, key: str) -> tuple[str, str, Any]:
    """The first name of a dotted key, the rest of it, and the type of what bears the name; Any: it is not known.

    A name in a mapping may hold dots itself: of one with single values it is the whole key, of one with sections as
    much as makes a legal name, as in rewards.my.py:fn.hinge.
    """
    kind = plain(annotation)
    name, _, rest = key.partition(".")
    if is_section(kind):
        return name, rest, kind.model_fields[name].annotation if name in kind.model_fields else Any
    if get_origin(kind) is not dict:
        return name, rest, Any
    of_names, inside = get_args(kind)
    if not is_section(plain(inside)):
        return key, "", inside
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        with suppress(ValidationError):
            TypeAdapter(of_names).validate_python(".".join(parts[:count]))
            return ".".join(parts[:count]), ".".join(parts[count:]), inside
    return name, rest, inside


def _is_container(annotation: Any) -> bool:
    kind = plain(annotation)
    return is_section(kind) or get_origin(kind) in (dict, tuple)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

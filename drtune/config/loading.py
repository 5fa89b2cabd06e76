"""A configuration from a file and from `key=value` strings; every mistake in them is told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from drtune.config.sections import Kind, read_tree, validated
from drtune.config.tree import Config
from drtune.errors import UserError


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
    tree = read_tree("config", path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return validated(kind, tree)


def differences(here: Config, there: Config) -> list[str]:
    """Dotted keys in which two configurations differ, each with both values."""
    mine, theirs = _flatten(here.model_dump(mode="json")), _flatten(there.model_dump(mode="json"))
    return [
        f"{key} ({mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there)"
        for key in sorted(mine | theirs)
        if mine.get(key) != theirs.get(key)
    ]


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


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

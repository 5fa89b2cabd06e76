"""Every setting with its type, default and meaning, read from the tree itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from drtune.config.rewards import RewardTerm
from drtune.config.sections import fields_of, plain
from drtune.config.tree import Config

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Setting:
    """One setting, as a person gives it by `--set key=value`."""

    key: str
    type: str
    default: str
    """As it is written; "" where it must be given."""
    meaning: str


def settings(word: str = "") -> list[Setting]:
    """All settings of `Config` in their order, or those with a word in their key or meaning, letter case aside.

    >>> [one.key for one in settings("sampler.eta")]
    ['sampler.eta']
    """
    found = [
        Setting(key, _type(field), _written(_default(key)), " ".join((field.description or "").split()))
        for key, field in fields_of(Config)
    ]
    return [one for one in found if word.lower() in f"{one.key} {one.meaning}".lower()]


def _type(field: FieldInfo) -> str:
    kind = plain(field.annotation)
    if get_origin(kind) is Literal:
        name = " or ".join(get_args(kind))
    else:
        names = {int: "whole number", float: "number", bool: "true or false", str: "text", dict: "mapping"}
        name = names.get(get_origin(kind) or kind, "list")
    bounds = [
        f"{words} {getattr(bound, key)}"
        for bound in field.metadata
        for key, words in _BOUNDS.items()
        if hasattr(bound, key)
    ]
    null = ["or null"] if type(None) in get_args(field.annotation) else []
    return ", ".join([name, *bounds, *null])


def _default(key: str) -> Any:
    value: Any = Config()
    for name in key.split("."):
        value = RewardTerm() if name == "<name>" else getattr(value, name, ...)
    return value


def _written(value: Any) -> str:
    """As it would be given by `--set`."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(_written, value))}]"
        case dict():
            return f"{{{', '.join(f'{name}: {_written(item)}' for name, item in value.items())}}}"
        case RewardTerm():
            return _written(value.weight)
    return "" if value is ... else str(value)

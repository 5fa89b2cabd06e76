"""What a person writes in YAML: trees that refuse what they do not know, and name every mistake in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)


class Section(BaseModel):
    """A part of such a tree: frozen, with unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class PolicyFile(Section):
    """A policy, which stands in a file of its own."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read it from a YAML file.

        Raises:
            UserError: the file cannot be read, or is not such a policy.
        """
        tree = read_tree("policy", path)
        try:
            return validated(cls, tree)
        except UserError as error:
            raise UserError(f"policy {path}: {error}") from None


def read_tree(what: str, path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file; none of an empty one.

    Raises:
        UserError: it cannot be read, or holds something else; `what` says what it should have been.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: not valid YAML: {' '.join(str(error).split())}; correct it there") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"{what} {path}: holds {type(tree).__name__}, wanted keys with values")
    return tree or {}


def validated(kind: type[Kind], tree: Mapping[str, Any]) -> Kind:
    """The tree as a section.

    Raises:
        UserError: naming every key that is wrong, with its value and what is wanted.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_one_line(problem, kind) for problem in error.errors())) from None


def _one_line(problem: Any, kind: type[BaseModel]) -> str:
    """A pydantic error as one line: the key, what is wrong, the value that was given."""
    loc, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    if loc[-1:] == ("[key]",):
        return f"{loc[0]}: {message}"
    key = ".".join(map(str, loc))
    key = key if key.isprintable() else repr(key)
    if problem["type"] == "missing":
        return f"{key}: is missing"
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

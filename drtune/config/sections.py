"""What a person writes in YAML: trees that refuse what they do not know, and name every mistake in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from drtune.config.text import Unquoted, read_yaml
from drtune.errors import UserError
from drtune.files.given import read_place, shown_place

Kind = TypeVar("Kind", bound="Section")
LARGEST_TREE = 2**20
"""Bytes of such a file: PyYAML takes some ten seconds for as many."""
SHOWN = 80
"""Characters of a key or a value that a message shows."""


class Section(BaseModel):
    """A part of such a tree: frozen, with unknown keys refused, and its scalars read by the type of their field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    short_for: ClassVar[str | None] = None
    """The field that is meant where a single value stands in place of the section."""

    @model_validator(mode="before")
    @classmethod
    def _spelt_out(cls, value: Any) -> Any:
        is_short = cls.short_for and not isinstance(value, Mapping | cls)
        return {cls.short_for: value} if is_short else value

    @field_validator("*", mode="before")
    @classmethod
    def _by_its_field(cls, value: Any, info: ValidationInfo) -> Any:
        """Texts and numbers are what pydantic reads from a str; it would take `yes` and `1` for true, and no null."""
        if not isinstance(value, str) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        if value == "null" and isinstance(value, Unquoted) and type(None) in get_args(annotation):
            return None
        if annotation is bool:
            if value.lower() not in ("true", "false"):
                raise ValueError("Input should be true or false")
            return value.lower() == "true"
        return value


class PolicyFile(Section):
    """A policy, which stands in a file of its own."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read it from a YAML file, here or on S3, or from the text of one.

        Raises:
            UserError: the file cannot be read, or is not such a policy.
        """
        tree = read_tree("policy", path)
        try:
            return validated(cls, tree)
        except UserError as error:
            raise UserError(f"policy {shown_place(path)}: {error}") from None


def read_tree(what: str, path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file, here or on S3, or of its text; none of an empty one.

    Raises:
        UserError: it cannot be read, or holds something else; `what` says what it should have been.
    """
    name = f"{what} {shown_place(path)}"
    try:
        tree = read_yaml(read_place(path, most=LARGEST_TREE).decode())
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not valid YAML: {error}; correct it there") from None
    except ValueError as error:
        raise UserError(f"{name}: {error}; correct it there") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"{name}: holds {shown(tree)}, wanted keys with values")
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


def fields_of(kind: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a tree by its dotted key, in their order; those of sections in a mapping below `<name>`."""
    for name, field in kind.model_fields.items():
        below, is_mapping = section_in(field.annotation), get_origin(plain(field.annotation)) is dict
        if below is None or is_mapping:
            yield f"{prefix}{name}", field
        if below is not None:
            yield from fields_of(below, f"{prefix}{name}.<name>." if is_mapping else f"{prefix}{name}.")


def plain(annotation: Any) -> Any:
    """The type in `Annotated[type, ...]` and `type | None`."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    kinds = get_args(annotation)
    return plain(next(kind for kind in kinds if kind is not type(None))) if type(None) in kinds else annotation


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Whether a type is a section."""
    return isinstance(kind, type) and issubclass(kind, Section)


def section_in(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `Section | None`, `dict[str, Section]` or `tuple[Section, ...]`."""
    if is_section(annotation):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def _one_line(problem: Any, kind: type[Section]) -> str:
    """A pydantic error as one line: the key, what is wrong, the value that was given."""
    loc, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    if loc[-1:] == ("[key]",):
        return f"{loc[0]}: {message}"
    key = shown(Unquoted(".".join(map(str, loc))))
    if problem["type"] == "missing":
        return f"{key}: is missing"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key; {_instead(kind, loc)}"
    return f"{key}={shown(problem['input'])}: {message}" if loc else message


def shown(value: Any) -> str:
    """A value as its user wrote it, in one line of bounded length."""
    text = str(value) if isinstance(value, Unquoted) and value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _instead(kind: type[Section], loc: Sequence[str | int]) -> str:
    """What may have been meant by an unknown key: one beside it that is spelt alike, one of its name elsewhere."""
    section = kind
    for name in map(str, loc[:-1]):
        if name in section.model_fields:  # else it is the key of a mapping or a number in a list, of such sections
            section = section_in(section.model_fields[name].annotation) or section
    given, beside = str(loc[-1]), list(section.model_fields)
    near = difflib.get_close_matches(given[:SHOWN], beside, n=1)
    near += [key for key, _ in fields_of(kind) if key.rpartition(".")[2] == given]
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(beside)}"

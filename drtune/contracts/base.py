"""The value that all contracts are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from drtune.contracts.reading import problem_in
from drtune.errors import UserError
from drtune.files.local import check_digest, read_given, sha256_bytes, write_text

MANIFEST = "manifest.json"
DIGEST = "digest"
"""The last key of a manifest, which is no field of the value: the digest of all else that stands there."""


class Contract(BaseModel):
    """A frozen value that is written as JSON and read back equal, or not at all when a byte of it was changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def manifest(self) -> str:
        """The text of `manifest.json`; equal values have equal text."""
        return json.dumps(self._fields() | {DIGEST: self.digest}, indent=2, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """The digest of the value, which its manifest ends with."""
        return self.digest_of(self._fields())

    @cached_property
    def manifest_sha256(self) -> str:
        """The digest of the file that the value was read from, or else of the one that `save` writes.

        They differ where the value has got fields, with a default, since the file was written.
        """
        return sha256_bytes(self.manifest().encode())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what is changed has another digest."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("manifest_sha256", None)
        return copy

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_text(Path(folder) / MANIFEST, self.manifest())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `manifest.json` from `folder`.

        Raises:
            UserError: there is none, or it is not one of this kind and version, or changed or damaged.
        """
        path = Path(folder) / MANIFEST
        try:
            return cls.read(read_given(path), str(path), fix="make it again")
        except OSError as error:
            raise UserError(f"{path}: no {cls.__name__} to read here ({error.strerror})") from None
        except ValidationError as error:
            problem = problem_in(error, "the file")
            raise UserError(f"{path}: not a {cls.__name__} of this version of drtune: {problem}") from None

    @classmethod
    def read(cls, content: bytes, shown: str, *, fix: str) -> Self:
        """The value that the text of a manifest holds.

        Raises:
            ValidationError: it is not one of this kind and version.
            UserError: it was changed or damaged; the message calls it `shown`, and ends with the `fix`.
        """
        try:
            fields = from_json(content)
        except ValueError:
            return cls.model_validate_json(content)  # which says what is wrong with it
        named = fields.pop(DIGEST, None) if isinstance(fields, dict) else None
        value = cls.model_validate(fields)
        if named is None:
            raise UserError(f"{shown}: has no digest; {fix}")
        # Of the text, not of the value: fields that are added later, with a default, are not in it.
        check_digest(shown, cls.digest_of(fields), str(named), owner="its digest", fix=fix)
        value.__dict__["manifest_sha256"] = sha256_bytes(content)
        return value

    @staticmethod
    def digest_of(fields: dict[str, Any]) -> str:
        """The digest that a manifest with these fields ends with."""
        return sha256_bytes(json.dumps({**fields, DIGEST: ""}, sort_keys=True).encode())

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.model_dump_json())
        return fields

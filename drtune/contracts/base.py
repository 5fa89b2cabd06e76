"""The value that all contracts are."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.errors import UserError
from drtune.files.local import read_given, write_text

MANIFEST = "manifest.json"


class Contract(BaseModel):
    """A frozen value that is written as JSON and read back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def manifest(self) -> str:
        """The text of `manifest.json`; equal values have equal text."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_text(Path(folder) / MANIFEST, self.manifest())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `manifest.json` from `folder`.

        Raises:
            UserError: there is none, or it is not one of this kind and version.
        """
        path = Path(folder) / MANIFEST
        try:
            return cls.model_validate_json(read_given(path))
        except OSError as error:
            raise UserError(f"{path}: no {cls.__name__} to read here ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: not a {cls.__name__} of this version of drtune: {where}: {first['msg']}"
            ) from None

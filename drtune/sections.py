"""What a person writes in YAML: parts of a tree that refuse what they do not know."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.errors import UserError


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
        try:
            return cls.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"policy {path}: cannot be read ({error.strerror})") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"policy {path}: not valid YAML: {' '.join(str(error).split())}") from None
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}" for problem in error.errors()
            ]
            raise UserError(f"policy {path}: {'; '.join(problems)}") from None

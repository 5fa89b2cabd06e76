"""What a base says of itself before it is loaded; this imports no torch, so that a wrong name shows at once."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from drtune.errors import UserError
from drtune.files.hub import from_hub
from drtune.files.local import read_given
from drtune.models.miniature import CHECKPOINT


def read_index(base_model: str, revision: str | None = None) -> dict[str, Any]:
    """The model_index.json of a pipeline, which names its class and its parts.

    Raises:
        UserError: there is none under that name.
    """
    index, _ = _found(base_model, revision)
    return index


def commit_of(base_model: str, revision: str | None = None) -> str | None:
    """The commit that a branch or tag of a hub id names; None is its main branch.

    A local folder and the miniature have no commit: `revision` is given back as it is.

    Raises:
        UserError: as `read_index`.
    """
    _, commit = _found(base_model, revision)
    return commit


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the full name of a commit, which stays what it is; a branch or a tag may move."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


@lru_cache(maxsize=1)  # of the hub it is asked for by who starts a run, and again by who loads it
def _found(base_model: str, revision: str | None) -> tuple[dict[str, Any], str | None]:
    """The model_index.json, and the commit that it is of."""
    folder = CHECKPOINT if base_model == "miniature" else Path(base_model)
    path = folder / "model_index.json"
    try:
        if not folder.is_dir():
            path = from_hub(base_model, path.name, revision)
            revision = path.parent.name  # the hub's cache has it as .../snapshots/<commit>/model_index.json
        return json.loads(read_given(path)), revision
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise unloadable(base_model, revision, error) from None


def unloadable(base_model: str, revision: str | None, error: Exception) -> UserError:
    """What is wrong with a base, in one line."""
    return UserError(f"base_model={base_model!r}, base_revision={revision!r}: cannot be loaded: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What is wrong with the name of a base, and what would mend it."""
    match error:
        case LocalEntryNotFoundError():
            hub = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub cannot be reached"
            return f"no such folder, {hub}, and the local cache has no copy of it; give the folder of a copy"
        case GatedRepoError():
            return "access is restricted; accept its terms on the hub and set HF_TOKEN"
        case RepositoryNotFoundError():
            return "no such folder, and no such model on the hub; correct the name, or set HF_TOKEN if it is private"
        case RevisionNotFoundError():
            return "the hub has no such revision of it"
        case EntryNotFoundError() | FileNotFoundError():
            return (
                "it has no model_index.json, so it is no pipeline of diffusers; give 'miniature', a hub id or a folder"
            )
        case HFValidationError():
            return "no such folder, and not a hub id, which is owner/name"
        case _:
            return str(error).splitlines()[0]

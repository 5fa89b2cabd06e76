"""Which registry a run means, and whether it can be used: asked in the first step, long before it is published to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from drtune.errors import UserError
from drtune.files.given import is_on_s3
from drtune.files.local import local_path
from drtune.files.patience import Patience
from drtune.files.storage import check_writable, open_storage
from drtune.publishing import REGISTRY
from drtune.publishing.registry import Registry

IN_A_POD = "s3://drtune/registry"
"""Where models are published on a cluster when nothing is said."""


def place_of(registry: str, environment: Mapping[str, str] = os.environ) -> str:
    """The registry that is meant; nothing stands for the usual one."""
    return registry or (IN_A_POD if in_a_pod(environment) else REGISTRY)


def check_registry(
    registry: str, name: str, environment: Mapping[str, str], *, patience: Patience | None = None
) -> None:
    """Refuse a registry that could not be published to in the end.

    Raises:
        UserError: it is a folder in a pod; its bucket is not there, or the keys may not write, read and delete in it;
            or the name is none.
    """
    place = place_of(registry, environment)
    if in_a_pod(environment) and not is_on_s3(place):
        raise UserError(f"registry {place}: would be gone with this pod; give s3://bucket/prefix")
    storage = open_storage(place, environment, patience=patience)
    Registry(storage).production(name)
    if is_on_s3(place):
        check_writable(storage)
    else:
        _check_folder(local_path(storage.uri))


def _check_folder(folder: Path) -> None:
    """Refuse a folder that could not be made or written to; one that is not there yet is not made by looking."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"registry {folder}: {error.strerror}; mend it or give another place") from None


def in_a_pod(environment: Mapping[str, str]) -> bool:
    """Whether this process runs on Kubernetes, which tells every container."""
    return "KUBERNETES_SERVICE_HOST" in environment

"""What killed writers left half written, found by what `replacing` calls its folders."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path


def clear_abandoned(top: Path, before: float) -> None:
    """Remove what was being written below `top` and was not touched since `before`, in seconds since the epoch."""
    for where, folders, _ in os.walk(top):
        for scratch in [Path(where) / name for name in folders]:
            with suppress(FileNotFoundError):  # its writer lives, and is done
                if _is_of_replacing(scratch) and _touched(scratch) < before:
                    shutil.rmtree(scratch, ignore_errors=True)
                    remove_empty(scratch.parent, top)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder with nothing in it, and those around it that have nothing else, up to `top`, which stays."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _is_of_replacing(folder: Path) -> bool:
    """By its name and by all that is in it: others have folders that begin with a dot, too."""
    name = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}(\.drtune)?", folder.name)
    return name is not None and {path.name for path in folder.iterdir()} <= {name[1], "replaced"}


def _touched(folder: Path) -> float:
    """When anything in it was written last."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))

"""The folders in which something is written before it takes its place, and what killed writers have left of them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRATCH = ".drtune"
"""How the names of those folders end in which something is being written."""
KEPT = "kept"
"""A file in such a folder: what was written there could not take its place, and is not to be removed."""
_SCRATCH_OF = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}{re.escape(SCRATCH)}")
"""The name of such a folder, as `_locked_scratch` has it made."""


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` to write in, gone afterwards; what killed writers of `path` have left goes before.

    Its writer holds a lock on it, by which others see that it lives. Where folders cannot be locked (NFS), what killed
    writers leave stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_killed(path)
    scratch, lock = _locked_scratch(path)
    try:
        yield scratch
    finally:
        _clear(scratch, path)
        os.close(lock)


def _locked_scratch(path: Path) -> tuple[Path, int]:
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SCRATCH, dir=path.parent))
        with suppress(FileNotFoundError):  # another writer has taken it for one of a killed one, before it was locked
            lock = os.open(scratch, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if scratch.exists():
                return scratch, lock
            os.close(lock)


def clear_killed(path: Path) -> None:
    """Remove what killed writers of `path` have left beside it."""
    for scratch in list(path.parent.iterdir()):
        name = _SCRATCH_OF.fullmatch(scratch.name)
        if name is None or name[1] != path.name:
            continue
        with suppress(FileNotFoundError):  # another has removed it
            lock = os.open(scratch, os.O_RDONLY)
            with suppress(OSError):  # it is being written, or there are no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(scratch, path)
            os.close(lock)


def _clear(scratch: Path, path: Path) -> None:
    """Remove a scratch folder; one whose writer ended while a folder took the place of another finishes that."""
    if not (scratch / KEPT).exists():
        if aside_in(scratch, path).exists() and not path.exists():
            with suppress(FileNotFoundError):  # it did take it, and was removed since
                (scratch / path.name).replace(path)
        shutil.rmtree(scratch, ignore_errors=True)


def aside_in(scratch: Path, path: Path) -> Path:
    """Where a folder is while another takes its place."""
    return scratch / f"{path.name}.replaced"


def keep(scratch: Path) -> None:
    """Leave a scratch folder as it is, for good: what was written there could not take its place."""
    (scratch / KEPT).touch()


def clear_abandoned(top: Path, before: float) -> None:
    """Remove what was being written below `top` and was not touched since `before`, in seconds since the epoch."""
    for where, folders, _ in os.walk(top):
        for scratch in [Path(where) / name for name in folders]:
            with suppress(FileNotFoundError):  # its writer lives, and is done
                if (path := _written_in(scratch)) and _touched(scratch) < before:
                    _clear(scratch, path)
                    remove_empty(scratch.parent, top)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder with nothing in it, and those around it that have nothing else, up to `top`, which stays."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _written_in(folder: Path) -> Path | None:
    """The place of what is written in a scratch folder; None: by its name, or by what is in it, it is another's."""
    if name := _SCRATCH_OF.fullmatch(folder.name):
        path = folder.with_name(name[1])
        if {one.name for one in folder.iterdir()} <= {path.name, aside_in(folder, path).name}:
            return path
    return None


def _touched(folder: Path) -> float:
    """When anything in it was written last."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))

"""A run's folder kept in a second place, such as S3, so that a run whose machine is gone goes on on another.

Nothing is ever half there: every file is stored whole, a checkpoint after the log that it belongs to, the manifest,
which makes the folder a model, last.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from drtune.contracts import MANIFEST
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.files.storage import Storage

REQUEST, MODEL, LAUNCHER = "request", "model", "launcher"
"""At the address of a training on a cluster: what is asked, the mirror of its folder, the launcher's heartbeat."""
CHECKPOINTS = "checkpoints/"
PATIENCE_SECONDS = 300.0
"""How long a store may be away when nothing can go on without it."""
PAUSE_SECONDS = 5.0

Result = TypeVar("Result")


def as_kept_at(uri: str, page: str, folder: Path) -> str:
    """A page about `folder` for who finds it at `uri`: with that address, and without commands, which need a path."""
    lines = [line for line in page.splitlines(keepends=True) if not re.search("`(drtune|tensorboard) ", line)]
    return "".join(lines).replace(str(folder), uri)


class Mirror:
    """The folder of a run and its mirror. Of all processes one pushes; one of each machine fetches."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._stored: dict[str, tuple[int, int]] = {}
        """Size and time of the files that the store has as they are here."""

    def fetch(self) -> None:
        """Make the folder what the store has; one that has nothing changes nothing."""
        keys = set(_patiently(self.storage.keys))
        if not keys:
            return
        for key in keys:
            # A checkpoint's name holds its digest: the same name is the same content.
            if not (key.startswith(CHECKPOINTS) and (self.folder / key).exists()):
                _patiently(partial(self._download, key))
        for key in self._files().keys() - keys:
            (self.folder / key).unlink()
        self._stored = self._files()

    def push(self, *, must: bool = False) -> None:
        """Make the store what the folder is.

        A store that is away is no reason to stop training: the next push has it all. With `must`, it is waited for.
        """
        try:
            _patiently(self._push, PATIENCE_SECONDS if must else 0.0)
        except (UserError, OSError) as error:
            if must:
                raise
            print(f"{self.storage.uri} does not have the newest checkpoint: {error}", file=sys.stderr, flush=True)

    def _push(self) -> None:
        files = self._files()
        changed = [key for key, state in files.items() if self._stored.get(key) != state]
        for key in sorted(changed, key=lambda key: (key == MANIFEST, key.startswith(CHECKPOINTS), key)):
            self.storage.upload(key, self.folder / key)
            self._stored[key] = files[key]
        for key in self._stored.keys() - files.keys():
            self.storage.delete(key)
            del self._stored[key]

    def _download(self, key: str) -> None:
        with replacing(self.folder / key) as written:
            self.storage.download(key, written)

    def _files(self) -> dict[str, tuple[int, int]]:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        relative = {path.relative_to(self.folder): path.stat() for path in paths}
        return {
            path.as_posix(): (stat.st_size, stat.st_mtime_ns)
            for path, stat in relative.items()
            if not any(part.startswith(".") for part in path.parts)  # a write under way
        }


def _patiently(call: Callable[[], Result], patience_seconds: float = PATIENCE_SECONDS) -> Result:
    """What `call` returns, tried again while the store is away."""
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except (UserError, OSError):
            if time.monotonic() >= give_up:
                raise
            time.sleep(PAUSE_SECONDS)

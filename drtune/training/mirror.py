"""A run's folder kept in a second place, such as S3, so that a run whose machine is gone goes on on another.

Nothing is ever half there: every file is stored whole, a checkpoint after the log that it belongs to, the manifest,
which makes the folder a model, last.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from drtune.contracts import MANIFEST
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.files.storage import Storage

REQUEST, MODEL, LAUNCHER = "request", "model", "launcher"
"""At the address of a training on a cluster: what is asked, the mirror of its folder, the launcher's heartbeat."""
CHECKPOINTS = "checkpoints/"
HICCUP_SECONDS = 2.0
"""How long a training waits for a store that it can go on without."""


class Mirror:
    """The folder of a run and its mirror. Of all processes one pushes; one of each machine fetches."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._stored: dict[str, tuple[int, int]] = {}
        """Size and time of the files that the store has as they are here."""

    def fetch(self) -> None:
        """Make the folder what the store has; one that has nothing changes nothing."""
        keys = set(self.storage.keys())
        if not keys:
            return
        for key in keys:
            # A checkpoint's name holds its digest: the same name is the same content.
            if not (key.startswith(CHECKPOINTS) and (self.folder / key).exists()):
                self._download(key)
        for key in self._files().keys() - keys:
            (self.folder / key).unlink()
        self._stored = self._files()

    def push(self, *, must: bool = False) -> None:
        """Make the store what the folder is.

        A store that is away is no reason to stop training: the next push has it all. With `must`, it is waited for.
        """
        try:
            with nullcontext() if must else self.storage.patience.limited(HICCUP_SECONDS):
                self._push()
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

"""A run's folder kept in a second place, such as S3, so that a run whose machine is gone goes on on another.

Nothing is ever half there: every file is stored whole, a checkpoint after the log that it belongs to, the list of its
shards after the shards of all machines, the manifest, which makes the folder a model, last.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

from drtune.contracts import MANIFEST
from drtune.errors import UserError
from drtune.files.local import files_below, replacing
from drtune.files.output import MARK, id_of
from drtune.files.storage import Storage

REQUEST, MODEL, LAUNCHER = "request", "model", "launcher"
"""At the address of a training on a cluster: what is asked, the mirror of its folder, the launcher's heartbeat."""
CHECKPOINTS = "checkpoints/"
SHARDS = "shards.json"
"""In the folder of a checkpoint, the list of the files that processes have written: what makes the folder one."""
HICCUP_SECONDS = 2.0
"""How long a training waits for a store that it can go on without."""


def as_kept_at(uri: str, page: str, folder: Path) -> str:
    """A page about `folder` for who finds it at `uri`: with that address, and without commands, which need a path."""
    lines = [line for line in page.splitlines(keepends=True) if not re.search("`(drtune|tensorboard) ", line)]
    return "".join(lines).replace(f"`{folder}", f"`{uri}")


class Mirror:
    """The folder of a run and its mirror. One process of each machine fetches, and pushes what its machine has made."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._stored: dict[str, tuple[int, int]] = {}
        """Size and time of the files that the store has as they are here."""

    def refuse_another_run(self) -> None:
        """Raise UserError when the store holds another run than the folder does, or something else than a run."""
        keys = self.storage.keys()
        if not keys:
            return
        if MARK not in keys:
            raise UserError(f"mirror {self.storage.uri}: holds something else than a run; give an empty place")
        theirs = json.loads(self.storage.read(MARK)).get("id")
        if self._files() and id_of(self.folder) != theirs:
            raise UserError(f"mirror {self.storage.uri}: is of another run than {self.folder}; give another place")

    def announce(self) -> None:
        """Store what tells whose the mirror is, before anything else comes there."""
        self.storage.upload(MARK, self.folder / MARK)

    def join(self) -> None:
        """Have the folder of another machine tell whose it is, once that is announced.

        Raises:
            UserError: it holds another run.
        """
        self.refuse_another_run()
        self._download(MARK)

    def is_ahead(self) -> bool:
        """Whether the newest checkpoint that is whole here is of a later update than the newest in the store."""
        here = self._files()
        lists = [key for key in here if key.startswith(CHECKPOINTS) and key.endswith(f"/{SHARDS}")]
        shards = {key: json.loads((self.folder / key).read_bytes())["sha256"] for key in lists}
        torn = {key for key in lists if any(key.replace(SHARDS, shard) not in here for shard in shards[key])}
        return _newest(here.keys() - torn) > _newest(self.storage.keys())

    def fetch(self, *, checkpoints: bool = True) -> None:
        """Make the folder what the store has, with or without its checkpoints; a store with nothing changes nothing.

        Only checkpoints and a manifest are taken away, which would count as what the store does not have.
        """
        keys = set(self.storage.keys())
        if not keys:
            return
        wanted = {key for key in keys if checkpoints or not key.startswith(CHECKPOINTS)}
        for key in sorted(wanted, key=_turn):
            # The name of a checkpoint holds its digest: the same name is the same content.
            if not (key.startswith(CHECKPOINTS) and (self.folder / key).exists()):
                self._download(key)
        for key in self._files().keys() - keys:
            if key == MANIFEST or (checkpoints and key.startswith(CHECKPOINTS)):
                (self.folder / key).unlink()
        self._stored = self._files()

    def push(self, *, must: bool = False) -> bool:
        """Make the store what the folder is; returns whether it is.

        A store that is away is no reason to stop training: the next push has it all. With `must`, it is waited for.
        """
        return self._try(self._push, must=must)

    def push_shards(self, *, must: bool = False) -> bool:
        """Store the shards of checkpoints alone, which count when `push` of the first machine has stored their list."""
        return self._try(self._push_shards, must=must)

    def _try(self, push: Callable[[], None], *, must: bool) -> bool:
        try:
            with nullcontext() if must else self.storage.patience.limited(HICCUP_SECONDS):
                push()
        except (UserError, OSError) as error:
            if must:
                raise
            print(f"{self.storage.uri} does not have the newest checkpoint: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _push(self) -> None:
        files = self._files()
        self._upload(files)
        stored = self.storage.keys()
        # What was here, and checkpoints of earlier starts; shards of another machine never are, but their list is.
        ours = [key for key in stored if key in self._stored or key.startswith(CHECKPOINTS)]
        gone = [key for key in ours if key not in files and _list_of(key) not in files]
        for key in sorted(gone, key=_turn, reverse=True):
            self.storage.delete(key)
            self._stored.pop(key, None)

    def _push_shards(self) -> None:
        files = self._files()
        self._upload({key: state for key, state in files.items() if _list_of(key) in files and _list_of(key) != key})

    def _upload(self, files: Mapping[str, tuple[int, int]]) -> None:
        for key in sorted(files, key=_turn):
            if self._stored.get(key) != files[key]:
                self.storage.upload(key, self.folder / key)
                self._stored[key] = files[key]

    def _download(self, key: str) -> None:
        with replacing(self.folder / key) as written:
            self.storage.download(key, written)

    def _files(self) -> dict[str, tuple[int, int]]:
        relative = {path.relative_to(self.folder): path.stat() for path in files_below(self.folder)}
        return {
            path.as_posix(): (stat.st_size, stat.st_mtime_ns)
            for path, stat in relative.items()
            if not any(part.startswith(".") for part in path.parts)  # a write under way
        }


def _turn(key: str) -> tuple[bool, bool, bool, str]:
    """What makes others count comes after them."""
    return key == MANIFEST, key.startswith(CHECKPOINTS), key.endswith(SHARDS), key


def _newest(keys: Iterable[str]) -> int:
    """The update of the newest whole checkpoint; -1: there is none."""
    steps = (re.fullmatch(r"checkpoints/step-(\d+)-[0-9a-f]{12}(\.safetensors|/shards\.json)", key) for key in keys)
    return max((int(step[1]) for step in steps if step), default=-1)


def _list_of(key: str) -> str:
    """The list of the checkpoint's shards, if a file is one of them."""
    return f"{key.rpartition('/')[0]}/{SHARDS}"

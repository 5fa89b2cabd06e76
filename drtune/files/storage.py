"""Where published files live: a folder or an S3 bucket behind one small interface.

Keys are relative paths with forward slashes, and stay so: one that leads elsewhere, asked for or listed by a server, is
refused. Every write is whole or absent, on both kinds of store.
The secrets of S3 come from the environment, under the names that every S3 client knows.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from drtune.errors import UserError
from drtune.files.local import check_key, files_below, local_path, read_given, replacing, sha256_file
from drtune.files.patience import Patience
from drtune.files.s3 import S3_URI, S3Storage
from drtune.files.scratch import clear_abandoned, remove_empty, scratch_beside


class Storage(Protocol):
    """Files below one URI.

    Every method raises UserError for what the user can mend (secrets, a missing bucket, a server out of reach, a full
    or read-only disk, a key that is no path below the URI) and OSError for the rest, each with one line. Reading a key
    that is not there raises FileNotFoundError.
    """

    uri: str
    """Without a slash at the end."""
    patience: Patience
    """With a server that is away or busy; a folder has no use for it."""

    def upload(self, key: str, source: Path) -> None:
        """Store a file under `key`, in place of what is there."""

    def write(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, in place of what is there."""

    def create(self, key: str, content: bytes) -> bool:
        """Store `content` under `key` unless something is there; of several callers at once exactly one gets True.

        None does when the answer to the one was lost: asked again, the server finds the key taken.
        """

    def has(self, key: str) -> bool:
        """Whether something is stored under `key`."""

    def read(self, key: str) -> bytes:
        """Return the content of a small file."""

    def download(self, key: str, target: Path) -> None:
        """Copy a file to the new local file `target`."""

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if there is something."""

    def sha256(self, key: str) -> str:
        """Return the digest of what the store holds, found by reading it back."""

    def written(self, folder: str = "") -> dict[str, float]:
        """When each key below `folder` was written, at any depth, in seconds since the epoch; sorted by key.

        Empty when there is no such folder.
        """

    def keys(self, folder: str = "") -> list[str]:
        """All keys below `folder`, at any depth, sorted."""

    def clear_scratch(self, folder: str, before: float) -> None:
        """Remove what killed writers left half written below `folder`, untouched since `before`, as in `written`.

        S3 shows no such thing: parts of uploads expire by the rules of the bucket.
        """


def open_storage(uri: str, environment: Mapping[str, str] = os.environ, *, patience: Patience | None = None) -> Storage:
    """Open the store at `file:///absolute/folder`, a bare path, or `s3://bucket/prefix`.

    S3 reads from `environment`: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (optional), AWS_REGION
    (optional) and AWS_ENDPOINT_URL (default: AWS); certificates and a proxy as `drtune.files.patience.patient_pool`
    does. The server must honour `If-None-Match: *`, as AWS, SeaweedFS, MinIO and Ceph do. Nothing is contacted yet. A
    server that is away or busy is asked again, with `patience`.

    Raises:
        UserError: the URI is of another kind, or a variable is missing.
    """
    if found := S3_URI.fullmatch(uri):
        return S3Storage(found["bucket"], found["prefix"] or "", environment, patience or Patience())
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("unreadable:")
    if not parts.scheme:
        return _FileStorage(Path(uri))
    whole = not {"?", "#"} & set(uri)  # else a part of it would be dropped
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and whole:
        return _FileStorage(local_path(uri))
    raise UserError(
        f"storage {uri!r}: wanted a folder, file:///absolute/folder or s3://bucket/prefix, with no ?, #, `.`, `..` or "
        "empty part in it"
    )


def check_writable(storage: Storage) -> None:
    """Write, read and delete a small file, so that what forbids one of them is told now and not at the end.

    Raises:
        UserError: the store cannot be reached or used.
        OSError: as for any other call, or what was written is not what is read.
    """
    key, content = f"probe-{uuid.uuid4().hex}", b"written to see whether it can be"
    with suppress(FileNotFoundError):
        storage.read(key)  # first: some servers make a bucket that is missing when it is written to
    storage.write(key, content)
    if storage.read(key) != content:
        raise OSError(f"{storage.uri}/{key}: something else is read than was written")
    storage.delete(key)


class _FileStorage:
    """A folder; it is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()
        self.patience = Patience()

    def upload(self, key: str, source: Path) -> None:
        with self._explained(path := self._path(key)), replacing(path) as written:
            shutil.copyfile(source, written)

    def write(self, key: str, content: bytes) -> None:
        with self._explained(path := self._path(key)), replacing(path) as written:
            written.write_bytes(content)

    def create(self, key: str, content: bytes) -> bool:
        with self._explained(path := self._path(key)), scratch_beside(path) as scratch:
            written = scratch / path.name
            written.write_bytes(content)
            try:
                # Unlike a rename, a link fails when the name is taken; unlike O_EXCL, the content is there at once.
                path.hardlink_to(written)
            except FileExistsError:
                return False
        return True

    def has(self, key: str) -> bool:
        return self._path(key).is_file()

    def read(self, key: str) -> bytes:
        with self._explained(path := self._path(key)):
            return read_given(path)

    def download(self, key: str, target: Path) -> None:
        with self._explained(f"{(path := self._path(key))} to {target}"):
            shutil.copyfile(path, target)

    def delete(self, key: str) -> None:
        with self._explained(path := self._path(key)):
            path.unlink(missing_ok=True)
        remove_empty(path.parent, self.root)

    def sha256(self, key: str) -> str:
        with self._explained(path := self._path(key)):
            return sha256_file(path)

    def written(self, folder: str = "") -> dict[str, float]:
        top = self._path(folder) if folder else self.root
        found = {}
        with self._explained(top):
            for path in files_below(top):
                key = path.relative_to(self.root)
                with suppress(FileNotFoundError):  # removed since it was listed
                    if not any(map(_is_scratch, key.parts[:-1])):
                        found[key.as_posix()] = path.lstat().st_mtime
        return dict(sorted(found.items()))

    def keys(self, folder: str = "") -> list[str]:
        return list(self.written(folder))

    def clear_scratch(self, folder: str, before: float) -> None:
        clear_abandoned(self._path(folder), before)

    def _path(self, key: str) -> Path:
        return self.root / check_key(self.uri, key)

    @contextmanager
    def _explained(self, subject: str | Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"storage {subject}: {error.strerror}; mend it or give another place") from None


def _is_scratch(folder_name: str) -> bool:
    """Whether a write may be under way in a folder of that name."""
    return folder_name.startswith(".")

"""Stores for tests of what keeps files in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from drtune.files.storage import Storage, open_storage
from tests.s3 import BUCKET, S3Server


def store_on(server: S3Server, **changes: str) -> Storage:
    """An empty store on an S3 server, opened with `changes` in the environment."""
    return open_storage(f"s3://{BUCKET}/{uuid4().hex}", server.environment | changes)


class HookedStorage:
    """A storage that calls `hook` before each upload, with the number of uploads done."""

    def __init__(self, storage: Storage, hook: Callable[[int], None]) -> None:
        self.storage, self.hook, self.uploads = storage, hook, 0
        self.uri, self.patience = storage.uri, storage.patience
        self.write, self.create, self.read = storage.write, storage.create, storage.read
        self.download, self.sha256, self.delete = storage.download, storage.sha256, storage.delete
        self.has, self.keys, self.written = storage.has, storage.keys, storage.written
        self.clear_scratch = storage.clear_scratch

    def upload(self, key: str, source: Path) -> None:
        self.hook(self.uploads)
        self.storage.upload(key, source)
        self.uploads += 1

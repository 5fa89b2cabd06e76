"""What several integration tests talk to or load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.s3 import S3Server

if TYPE_CHECKING:
    from tests.pipelines import FolderOf


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests of a worker; each test takes a prefix of its own."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a tiny pipeline of some kind, saved when it is first asked for."""
    from tests.pipelines import save_pipeline  # brings torch, which most tests here do without

    root = tmp_path_factory.mktemp("pipelines")
    return lambda kind: root / kind if (root / kind).exists() else save_pipeline(kind, root / kind)

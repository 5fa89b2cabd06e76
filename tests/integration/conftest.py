"""What several integration tests talk to or load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drtune.files.storage import Storage, open_storage
from drtune.prompts.prepare import prepare
from tests.s3 import S3Server
from tests.stores import store_on

if TYPE_CHECKING:
    from tests.cluster_api import ClusterApi
    from tests.launches import Tried


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests of a worker; each test takes a prefix of its own."""
    with S3Server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of either kind."""
    if request.param == "file":
        return open_storage((tmp_path / "registry").as_uri())
    return store_on(request.getfixturevalue("s3_server"))


@pytest.fixture
def api() -> Iterator[ClusterApi]:
    """A Kubernetes API server."""
    from tests.cluster_api import ClusterApi

    with ClusterApi() as server:
        yield server


@pytest.fixture(scope="session")
def some_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prompt set, for those who only pass it on."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "prompts.txt").write_text("".join(f"a red circle, number {number}\n" for number in range(30)))
    prepare(folder / "prompts.txt", folder / "set")
    return folder / "set"


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of the miniature's world, prepared."""
    from drtune.models.miniature.world import scenes  # brings torch, which most tests here do without

    folder = tmp_path_factory.mktemp("prompts")
    (folder / "captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=60)))
    prepare(folder / "captions.txt", folder / "set")
    return folder / "set"


@pytest.fixture
def tried(api: ClusterApi, tmp_path: Path, some_prompts: Path) -> Tried:
    """A launcher that is going to train on two nodes."""
    from tests.launches import Tried

    return Tried(api, tmp_path, some_prompts)

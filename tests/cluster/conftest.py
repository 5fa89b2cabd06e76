"""What every story begins with: the cluster at hand, and runs that are ended and cleaned up after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from components.train.spec import load_spec
from drtune.errors import UserError
from drtune.files.storage import check_writable
from tests.cluster.site import CLUSTER, ROOT, Run, Site, end_all


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The cluster; what this session puts on its S3 server is removed at the end."""
    site = Site.at_hand(tmp_path_factory.mktemp("packages"))
    check_writable(site.storage(site.own))
    yield site
    site.empty(site.own)


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Run]]:
    """Starts runs; each has ended, with nothing left behind, before the next story begins."""
    started: list[Run] = []

    def start(story: str, *given: str, package: str = "tune") -> Run:
        started.append(site.start(story, *given, package=package))
        return started[-1]

    yield start
    end_all(started)
    for run in started:
        with suppress(UserError):
            site.empty(f"{load_spec(ROOT / CLUSTER).storage}/{run.id}")

"""Servers that the integration tests talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests of a worker; each test takes a prefix of its own."""
    with S3Server() as server:
        yield server

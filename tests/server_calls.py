"""What the tests of the server's commands share: a server, and a command that goes well or is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from pipelines.cli.main import main
from tests.kfp_api import KfpServer


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as started:
        yield started


COMMITTED = {"DRTUNE_CODE_REVISION": "4a1b2c9"}
"""So that the state of the folder in which the tests run is none of their business."""


def call(server: KfpServer, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=server.environment | COMMITTED | environment)


def fine(server: KfpServer, *arguments: str) -> list[str]:
    result = call(server, *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


def refused(server: KfpServer, *arguments: str, code: int = 2, **environment: str) -> str:
    """The one line that says why."""
    result = call(server, *arguments, **environment)
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")

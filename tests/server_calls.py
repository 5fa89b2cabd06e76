"""What the tests of the server's commands share: a server, and a command that goes well or is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from pipelines.cli.main import main
from tests.kfp_api import KfpServer
from tests.kfp_nodes import Look

TRAINING = Look("RUNNING", {"prepare-prompts": "SUCCEEDED", "train": "RUNNING"})
FAILED = Look("FAILED", {"prepare-prompts": "SUCCEEDED", "train": "FAILED"})
LOG = """
Loading the base
Traceback (most recent call last):
  File "/app/components/train/run.py", line 30, in train
    run_process(command)
drtune.errors.UserError: batch_size=3: cannot be shared by processes=2; make it a multiple
I0105 03:04:00.000000 main.go:57] failed to execute component: exit status 1
"""


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

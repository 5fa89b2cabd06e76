"""What holds for all tests, and what those of both folders load."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.pipelines import FolderOf

# Whoever runs the tests in the background has Ctrl-C ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: on a loaded machine one slow example says nothing.
settings.register_profile("drtune", deadline=None)
settings.load_profile("drtune")

REVISION = "c0de" * 10
"""The commit that everything states which is made in tests: a real one between two of them changes nothing."""


@pytest.fixture(scope="session", autouse=True)
def _revision() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DRTUNE_CODE_REVISION", REVISION)
        yield


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a tiny pipeline of some kind, saved when it is first asked for."""
    from tests.pipelines import save_pipeline  # brings torch, which many tests do without

    root = tmp_path_factory.mktemp("pipelines")
    return lambda kind: root / kind if (root / kind).exists() else save_pipeline(kind, root / kind)


SLOW = pytest.StashKey[int]()
"""How many slow tests were left out."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    config = items[0].config
    config.stash[SLOW] = sum(item.get_closest_marker("slow") is not None for item in items)
    if (output := getattr(config, "workeroutput", None)) is not None:
        output["slow"] = config.stash[SLOW]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Each worker of xdist has left out the same tests."""
    node.config.stash[SLOW] = getattr(node, "workeroutput", {}).get("slow", 0)  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(SLOW, 0):
        terminalreporter.write_line(f"{left_out} slow tests were left out; `make test-all` runs them")

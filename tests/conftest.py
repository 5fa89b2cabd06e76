"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import settings

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

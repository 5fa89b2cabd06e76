"""Follow a run to its end, and say why it failed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import kfp_server_api
import urllib3

from drtune.errors import InterruptionError
from drtune.training.interrupts import SIGNALS
from pipelines.server.client import REQUEST_SECONDS, Client, explain
from pipelines.server.logs import last_words
from pipelines.server.package import Package
from pipelines.server.runs import DRIVER, ENDED, Step, seconds_of, spell, steps_of

LONGEST_PAUSE_SECONDS = 15.0
SIGN_OF_LIFE_SECONDS = 540.0
"""Some CI systems end a job that says nothing for ten minutes."""
BUSY = 429


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `reason` is one line that names the step, None for a success."""

    state: str
    seconds: float | None
    reason: str | None = None


def follow(
    client: Client,
    run: Any,
    package: Package,
    say: Callable[[str], None],
    *,
    timeout_seconds: float | None = None,
    pause_seconds: float = 1.0,
    patience_seconds: float = 600.0,
) -> Outcome:
    """Tell of each step as it starts and ends, until the run does.

    Args:
        client: Of the server.
        run: The run as the server gave it when it was started or found.
        package: What it runs.
        say: Takes one line.
        timeout_seconds: After this time it is no longer waited for, and the state is TIMEOUT; the run goes on.
        pause_seconds: First pause between two looks; it grows to a quarter of a minute.
        patience_seconds: How long a server that stopped answering is asked again.

    Raises:
        InterruptionError: SIGTERM or Ctrl-C; the run goes on.
        ApiException, HTTPError: the server refuses to tell, or has not answered for longer than that.
    """
    started = said = time.monotonic()
    states: dict[str, str] = {}
    with _leaving(f"no longer waiting for run {run.run_id}, which goes on; {how_to_go_on(run.run_id)}"):
        while True:
            run = _ask_again(client, run.run_id, say, pause_seconds, patience_seconds)
            steps = steps_of(run, package)
            for step in steps:
                if step.state != states.get(step.name) and step.state != "PENDING":
                    say(f"{_clock()}  {step.name if step.state == 'RUNNING' else step}")
                    said = time.monotonic()
                states[step.name] = step.state
            if run.state in ENDED:
                return _outcome(client, run, steps)
            waited = time.monotonic() - started
            if timeout_seconds is not None and waited >= timeout_seconds:
                reason = f"run {run.run_id}: not over after {spell(waited)}; it goes on; {how_to_go_on(run.run_id)}"
                return Outcome("TIMEOUT", waited, reason)
            if time.monotonic() - said > SIGN_OF_LIFE_SECONDS:
                going_on = ", ".join(str(step) for step in steps if step.state not in ENDED)
                say(f"{_clock()}  {going_on or 'waiting for the first step'}")
                said = time.monotonic()
            rest = pause_seconds if timeout_seconds is None else min(pause_seconds, timeout_seconds - waited)
            time.sleep(rest)
            pause_seconds = min(1.2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def how_to_go_on(run_id: str) -> str:
    """What a person can do about a run that is not waited for."""
    return f"`drtune-pipeline status {run_id} --wait` waits again, `drtune-pipeline cancel {run_id}` ends it"


def _outcome(client: Client, run: Any, steps: list[Step]) -> Outcome:
    outcome = Outcome(run.state, seconds_of(run))
    if run.state == "SUCCEEDED":
        return outcome
    failed = [step for step in steps if step.state == "FAILED"]
    if not failed:
        why = _message(run.error) or f"see {client.page(f'runs/details/{run.run_id}')}"
        return replace(outcome, reason=f"run {run.run_id}: {run.state.lower()}; {why}")
    step = min(failed, key=lambda step: str(step.task.end_time))  # the others may have failed for its sake
    return replace(outcome, reason=f"step {step.name}: {_why(client, run, step)}")


def _why(client: Client, run: Any, step: Step) -> str:
    """The reason that the server gives for the step, or the last exception in its log, or the reason for the run."""
    page = client.page(f"runs/details/{run.run_id}")
    if step.task.display_name.endswith(DRIVER):
        return f"Kubeflow could not start it (its driver failed); see {page}"
    words = _message(step.task.error) or last_words(client, run, step.task) or _message(run.error)
    return words or f"failed without a reason; see {page}"


def _message(error: Any) -> str | None:
    """What the server says of an error, in one line."""
    return " ".join(error.message.split()) if error and error.message else None


def _ask_again(
    client: Client, run_id: str, say: Callable[[str], None], pause_seconds: float, patience_seconds: float
) -> Any:
    """The run now, from a server that may be away for a while."""
    give_up = time.monotonic() + patience_seconds
    silent = False
    while True:
        try:
            return client.runs.run_service_get_run(run_id, _request_timeout=REQUEST_SECONDS)
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            status = getattr(error, "status", None)
            passes = status is None or status == BUSY or status >= 500
            if not passes or time.monotonic() > give_up:
                raise
            if not silent:
                say(f"{_clock()}  {explain(error)} (asking again for {spell(patience_seconds)})")
            silent = True
            time.sleep(pause_seconds)


@contextmanager
def _leaving(message: str) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end what is within at once, with that message."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise InterruptionError(message, number)

    previous = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _clock() -> str:
    return time.strftime("%H:%M:%S")

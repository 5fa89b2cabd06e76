"""Follow a run to its end, and say what it came to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import kfp_server_api
import urllib3

from drtune.errors import InterruptionError
from drtune.files.progress import spell
from pipelines.server.client import Client, explain
from pipelines.server.logs import words_for
from pipelines.server.outcome import Outcome, outcome_of
from pipelines.server.package import Package
from pipelines.server.runs import ENDED, NOT_RUN, Step, steps_of

LONGEST_PAUSE_SECONDS = 15.0
SIGN_OF_LIFE_SECONDS = 540.0
"""Some CI systems end a job that says nothing for ten minutes."""
STARTING = ("ContainerCreating", "PodInitializing")
"""What Kubernetes says of every pod for a moment: it has its place, and its images come."""
BUSY = 429


def follow(
    client: Client,
    run: Any,
    package: Package,
    say: Callable[[str], None],
    *,
    pending_seconds: float,
    timeout_seconds: float | None = None,
    since: float | None = None,
    pause_seconds: float = 1.0,
    patience_seconds: float = 600.0,
) -> Outcome:
    """Tell of each step as it starts and ends, until the run does.

    Args:
        client: Of the server.
        run: The run as the server gave it when it was started or found.
        package: What it runs.
        say: Takes one line.
        pending_seconds: How long the pod of a step may wait for its place before it is told what can be done.
        timeout_seconds: After this time it is no longer waited for, and the state is TIMEOUT; the run goes on.
        since: When waiting began, by `time.monotonic`: of several runs, before the first; None: now.
        pause_seconds: First pause between two looks; it grows to a quarter of a minute.
        patience_seconds: How long a server that stopped answering is asked again.

    Raises:
        InterruptionError: SIGTERM or Ctrl-C; the run goes on.
        ApiException, HTTPError: the server refuses to tell, or has not answered for longer than that.
    """
    started = time.monotonic() if since is None else since
    limit = math.inf if timeout_seconds is None else timeout_seconds

    def out_of_time(waited: float) -> Outcome:
        return Outcome("TIMEOUT", f"not over after {spell(waited)}; it goes on; {how_to_go_on(run.run_id)}")

    teller = _Teller(say, run.run_id, pending_seconds)
    try:
        while True:
            left = max(0.0, limit - (time.monotonic() - started))
            try:
                run = _ask_again(client, run.run_id, teller, pause_seconds, min(patience_seconds, left))
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                if (waited := time.monotonic() - started) < limit or not _passes(error):
                    raise
                return out_of_time(waited)
            steps = steps_of(run, package)
            waiting = [step.key for step in steps if step.state == "PENDING"]
            teller.look(steps, words_for(client, run, package, waiting))
            if run.state in ENDED:
                return outcome_of(client, run, package, steps)
            if (waited := time.monotonic() - started) >= limit:
                return out_of_time(waited)
            if time.monotonic() - teller.said_at > SIGN_OF_LIFE_SECONDS:
                going_on = ", ".join(str(step) for step in steps if step.state not in (*ENDED, NOT_RUN))
                teller.tell(going_on or "waiting for the first step")
            time.sleep(min(pause_seconds, limit - waited))
            pause_seconds = min(1.2 * pause_seconds, LONGEST_PAUSE_SECONDS)
    except InterruptionError as stopped:
        told = f"no longer waiting for run {run.run_id}, which goes on; {how_to_go_on(run.run_id)}"
        raise InterruptionError(told, stopped.exit_code - 128) from None


def how_to_go_on(run_id: str) -> str:
    """What a person can do about a run that is not waited for."""
    return f"`drtune-pipeline status {run_id} --wait` waits again, `drtune-pipeline cancel {run_id}` ends it"


class _Teller:
    """Tells of each step once as it starts and ends, and of one that waits for its pod."""

    def __init__(self, say: Callable[[str], None], run_id: str, pending_seconds: float) -> None:
        self.said_at = time.monotonic()
        self._say = say
        self._run_id = run_id
        self._patience_seconds = pending_seconds
        self._states: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._pending_since: dict[str, float] = {}

    def tell(self, line: str) -> None:
        """Say it, with the time."""
        self._say(f"{time.strftime('%H:%M:%S')}  {line}")
        self.said_at = time.monotonic()

    def look(self, steps: list[Step], words: Mapping[str, str]) -> None:
        """Tell what is new; `words` are what Argo says of pods that wait, by their step's key."""
        for step in steps:
            if step.state == "PENDING":
                self._wait(step, words.get(step.key, ""))
            elif step.state != self._states.get(step.key) and step.state != NOT_RUN:
                self.tell(step.name if step.state == "RUNNING" else str(step))
            self._states[step.key] = step.state

    def _wait(self, step: Step, words: str) -> None:
        since = self._pending_since.setdefault(step.key, time.monotonic())
        waits = bool(words) and not words.startswith(STARTING)
        if waits and words != self._words.get(step.key):
            self.tell(f"{step.name} pending: {words}")
            self._words[step.key] = words
        waited = time.monotonic() - since
        if waited >= self._patience_seconds:
            self._pending_since[step.key] = math.inf  # once is enough
            why = words.rstrip(".") or "its pod has not started"
            wanted = "what its pod asks for (a node, a GPU, a toleration, its image)"
            less = f"`drtune-pipeline cancel {self._run_id}` and ask for less"
            self.tell(f"{step.name} has been pending for {spell(waited)}: {why}; give the cluster {wanted}, or {less}")


def _passes(error: Exception) -> bool:
    """Whether a server that says so, or nothing, may answer later."""
    status = getattr(error, "status", None)
    return status is None or status == BUSY or status >= 500


def _ask_again(client: Client, run_id: str, teller: _Teller, pause_seconds: float, patience_seconds: float) -> Any:
    """The run now, from a server that may be away for a while."""
    give_up = time.monotonic() + patience_seconds
    silent = False
    while True:
        try:
            return client.runs.run_service_get_run(run_id)
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            if not _passes(error) or time.monotonic() > give_up:
                raise
            if not silent:
                teller.tell(f"{explain(error)} (asking again for {spell(patience_seconds)})")
            silent = True
            time.sleep(pause_seconds)

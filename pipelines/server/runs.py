"""Runs on a server: start one, follow it to its end, and say why it failed."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import FrameType
from typing import Any, NamedTuple

import kfp_server_api
import urllib3

from drtune.errors import InterruptionError, UserError
from drtune.interrupts import SIGNALS
from pipelines.server.client import REQUEST_SECONDS, Client, everything, explain, named, quietly
from pipelines.server.logs import last_words
from pipelines.server.package import Json, Package

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States that a run or a step does not leave again; PAUSED is none of them."""
DRIVER = "-driver"
LONGEST_PAUSE_SECONDS = 15.0
SIGN_OF_LIFE_SECONDS = 540.0
"""Some CI systems end a job that says nothing for ten minutes."""
BUSY = 429


class Version(NamedTuple):
    """A version of a pipeline on the server."""

    pipeline_id: str
    version_id: str


@dataclass(frozen=True)
class Job:
    """What is to run: once, or again and again.

    >>> Job(Package.read(path), {"name": "mine"}, experiment="drtune")
    """

    package: Package
    arguments: Json
    experiment: str
    version: Version | None = None
    """The version on the server that `package` is; None sends the package itself."""
    service_account: str | None = None

    @contextmanager
    def as_kfp(self, client: Client, say: Callable[[str], None]) -> Iterator[Json]:
        """The arguments by which kfp's client starts it; what they name on disk is there only within."""
        common = {
            "experiment_id": _experiment_id(client, self.experiment, say),
            "params": self.arguments,
            "service_account": self.service_account,
        }
        if self.version:
            yield common | {"pipeline_id": self.version.pipeline_id, "version_id": self.version.version_id}
            return
        with self.package.on_disk() as path:
            yield common | {"pipeline_package_path": str(path)}


@dataclass(frozen=True)
class Step:
    """One step of a run, as the server sees it now."""

    name: str
    state: str
    seconds: float | None
    """How long it took; None before its end, and when it was skipped."""
    task: Any

    def __str__(self) -> str:
        duration = f" after {spell(self.seconds)}" if self.seconds is not None else ""
        return f"{self.name} {self.state.lower()}{duration}"


def submit(client: Client, job: Job, name: str, say: Callable[[str], None]) -> Any:
    """Start one run, in an experiment that is made if it is not there; `say` hears of that."""
    with job.as_kfp(client, say) as arguments, quietly():
        return client.run_pipeline(job_name=name, **arguments)


def find_run(client: Client, given: str) -> Any:
    """The run with that id, or the newest one of that name.

    Raises:
        UserError: there is none.
    """
    if _is_uuid(given):
        return client.get_run(given)
    found = client.list_runs(
        page_size=1, sort_by="created_at desc", namespace=client.namespace, filter=named(given)
    ).runs
    if not found:
        raise UserError(f"run {given}: there is none of that name; `drtune-pipeline status` lists the newest")
    return client.get_run(found[0].run_id)


def newest_runs(client: Client, experiment: str | None, count: int) -> list[Any]:
    """The newest runs, of one experiment or of all.

    Raises:
        UserError: there is no such experiment.
    """
    which = {}
    if experiment:
        known = {one.display_name: one for one in everything(client.list_experiments, "experiments")}
        if experiment not in known:
            raise UserError(f"experiment {experiment}: not there; there are {', '.join(sorted(known)) or 'none yet'}")
        which = {"experiment_id": known[experiment].experiment_id}
    return client.list_runs(page_size=count, sort_by="created_at desc", **which).runs or []


def package_of(client: Client, run: Any) -> Package:
    """The pipeline that a run runs."""
    if run.pipeline_spec:
        return Package.of_server(run.pipeline_spec)
    version = run.pipeline_version_reference
    return Package.of_server(
        client.get_pipeline_version(version.pipeline_id, version.pipeline_version_id).pipeline_spec
    )


def steps_of(run: Any, package: Package) -> list[Step]:
    """The steps that have been reached, in the order in which they started.

    Argo adds nodes of its own, for a driver before each step and an executor in it. What a failed driver leaves out has
    failed.
    """
    details = (run.run_details and run.run_details.task_details) or []
    found: dict[str, Step] = {}
    for task in sorted(details, key=lambda task: (str(task.start_time), task.display_name)):
        key = task.display_name
        if key.endswith(DRIVER) and task.state == "FAILED":
            key = key.removesuffix(DRIVER)
        if key in package.steps and (key not in found or task.state == "FAILED"):
            found[key] = Step(package.steps[key], task.state or "PENDING", _seconds(task), task)
    return list(found.values())


def _experiment_id(client: Client, name: str, say: Callable[[str], None]) -> str:
    """The experiment of that name, or a new one.

    Raises:
        UserError: it is archived, and so takes no runs.
    """
    found = client.list_experiments(filter=named(name)).experiments
    if not found:
        say(f"experiment {name}: made, since it was not there")
        with quietly():
            return str(client.create_experiment(name).experiment_id)
    if found[0].storage_state == "ARCHIVED":
        raise UserError(f"experiment {name}: is archived; restore it in the user interface, or give another one")
    return str(found[0].experiment_id)


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


def spell(seconds: float) -> str:
    """A duration as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if number]
    return " ".join(parts) or "0 s"


def seconds_of(run: Any) -> float | None:
    """How long a run took; None before its end."""
    return _between(run.created_at, run.finished_at)


def _outcome(client: Client, run: Any, steps: list[Step]) -> Outcome:
    outcome = Outcome(run.state, seconds_of(run))
    if run.state == "SUCCEEDED":
        return outcome
    failed = [step for step in steps if step.state == "FAILED"]
    if not failed:
        why = run.error.message if run.error else f"see {client.page(f'runs/details/{run.run_id}')}"
        return replace(outcome, reason=f"run {run.run_id}: {run.state.lower()}; {why}")
    step = min(failed, key=lambda step: str(step.task.end_time))  # the others may have failed for its sake
    return replace(outcome, reason=f"step {step.name}: {_why(client, run, step)}")


def _why(client: Client, run: Any, step: Step) -> str:
    """The reason that the server gives, or else the last exception in the step's log."""
    for given in (step.task.error, run.error):
        if given and given.message:
            return " ".join(given.message.split())
    page = client.page(f"runs/details/{run.run_id}")
    if step.task.display_name.endswith(DRIVER):
        return f"Kubeflow could not start it (its driver failed); see {page}"
    return last_words(client, run, step.task) or f"failed without a reason; see {page}"


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


def _seconds(task: Any) -> float | None:
    has_run = task.state in ENDED and task.state != "SKIPPED"
    return _between(task.start_time, task.end_time) if has_run else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """The server dates what has not happened 1970 or the year 1."""
    if start is None or end is None or min(start.year, end.year) <= 1970:
        return None
    return (end - start).total_seconds()


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def cancel(client: Client, given: str) -> Any:
    """End a run.

    Raises:
        UserError: there is no such run, or it is over.
    """
    run = find_run(client, given)
    if run.state in ENDED:
        raise UserError(f"run {given}: is over ({run.state}); there is nothing to cancel")
    client.terminate_run(run.run_id)
    return run

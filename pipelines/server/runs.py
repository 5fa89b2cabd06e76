"""Runs on a server: start one, find it, see how far it is, end it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from components.endings import was_cancelled
from drtune.errors import UserError
from drtune.files.progress import spell
from pipelines.server.client import Client, everything, named, quietly
from pipelines.server.package import Json, Package

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States that a run or a step does not leave again; PAUSED is none of them."""
DRIVER = "-driver"
NOT_RUN = "NOT RUN"
"""State of a step that the run left out: the server tells none then."""
_TRY = re.compile(r"executor(\(\d+\))?")


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
    key: str
    """What Argo knows it by."""
    state: str
    """Of ENDED, RUNNING, PENDING (its pod waits for a place or an image), or NOT_RUN."""
    seconds: float | None = None
    """How long it took; None before its end, and when it was skipped."""
    ended_at: datetime | None = None
    failed_before_it_started: bool = False
    """Its driver failed, which comes before its pod."""

    def __str__(self) -> str:
        duration = f" after {spell(self.seconds)}" if self.seconds is not None else ""
        return f"{self.name} {spoken(self.state)}{duration}"


def submit(client: Client, job: Job, name: str, say: Callable[[str], None]) -> Any:
    """Start one run, in an experiment that is made if it is not there; `say` hears of that."""
    with job.as_kfp(client, say) as arguments, quietly():
        return client.run_pipeline(job_name=name, **arguments)


def cancel(client: Client, given: str) -> Any:
    """End a run.

    Raises:
        UserError: there is no such run, or it is over.
    """
    run = find_run(client, given)
    if run.state in ENDED:
        raise UserError(f"run {given}: is over ({spoken(state_of(run))}); there is nothing to cancel")
    client.terminate_run(run.run_id)
    return run


def retry(client: Client, given: str) -> Any:
    """Let a run go on that failed or was cancelled: what its steps did that went well is kept.

    Raises:
        UserError: there is no such run, it is not over yet, or it went well.
    """
    run = find_run(client, given)
    if run.state not in ENDED:
        raise UserError(f"run {given}: is not over ({spoken(state_of(run))}); `drtune-pipeline cancel {given}` ends it")
    if run.state in ("SUCCEEDED", "SKIPPED"):
        raise UserError(f"run {given}: {spoken(run.state)}, and nothing of it is left to do; submit another one")
    client.runs.run_service_retry_run(run.run_id)  # kfp's own client has no method for it
    return run


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


def state_of(run: Any) -> str:
    """The state of a run; the server calls one that was cancelled FAILED, and only its history tells."""
    told_to_end = was_cancelled([status.state for status in run.state_history or []])
    return "CANCELED" if told_to_end and run.state == "FAILED" else str(run.state)


def steps_of(run: Any, package: Package) -> list[Step]:
    """The steps that have been reached, in the order in which they started; after the end all of them.

    Argo adds nodes of its own, for a driver before each step, an executor in it, and tries around each of them. What a
    failed driver leaves out has failed. What has no name is no node but an entry of the cache.
    """
    details = (run.run_details and run.run_details.task_details) or []
    tasks = sorted((task for task in details if task.display_name), key=lambda task: str(task.start_time))
    waiting = [task.start_time for task in tasks if _TRY.fullmatch(task.display_name) and task.state == "PENDING"]
    cancelled = state_of(run) == "CANCELED"
    found: dict[str, Step] = {}
    for task in tasks:
        key, state = task.display_name, task.state or NOT_RUN
        driver_failed = key.endswith(DRIVER) and state == "FAILED"
        key = key.removesuffix(DRIVER) if driver_failed else key
        if key not in package.steps or (key in found and state != "FAILED"):
            continue
        if state == "RUNNING" and any(start >= task.start_time for start in waiting):
            state = "PENDING"
        if state == "FAILED" and cancelled:
            state = "CANCELED"
        found[key] = Step(
            package.steps[key], key, state, _seconds(task), task.end_time, failed_before_it_started=driver_failed
        )
    if run.state in ENDED:
        left_out = [key for key in package.places if key not in found]
        found |= {key: Step(package.steps[key], key, NOT_RUN) for key in left_out}
    return list(found.values())


def spoken(state: str) -> str:
    """A state as people say it."""
    return "cancelled" if state == "CANCELED" else state.lower()


def seconds_of(run: Any) -> float | None:
    """How long a run took; None before its end."""
    return _between(run.created_at, run.finished_at)


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


def _seconds(task: Any) -> float | None:
    has_run = task.state in ENDED and task.state != "SKIPPED"
    return _between(task.start_time, task.end_time) if has_run else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """The server dates what has not happened 1970 or the year 1."""
    if start is None or end is None or min(start.year, end.year) <= 1970:
        return None
    return (end - start).total_seconds()


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False

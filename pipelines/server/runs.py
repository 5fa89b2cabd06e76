"""Runs on a server: start one, find it, see how far it is, end it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from drtune.errors import UserError
from pipelines.server.client import Client, everything, named, quietly
from pipelines.server.package import Json, Package

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States that a run or a step does not leave again; PAUSED is none of them."""
DRIVER = "-driver"


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


def spell(seconds: float) -> str:
    """A duration as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if number]
    return " ".join(parts) or "0 s"


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

"""Runs that start by themselves: recurring runs of Kubeflow, known by their name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from croniter import croniter
from croniter.croniter import CroniterError

from drtune.errors import UserError
from pipelines.server.client import Client, everything, quietly
from pipelines.server.runs import Job

FIELDS = "second minute hour day-of-month month day-of-week"
EXAMPLE = "such as '0 3 * * 1' for Mondays at three"


class Schedule(NamedTuple):
    """One recurring run, as people ask for it."""

    name: str
    cron: str
    """Six fields, the seconds first."""
    max_concurrency: int
    catch_up: bool


def six_fields(expression: str) -> str:
    """A cron expression of five or six fields as Kubeflow reads it: with the seconds first.

    Kubeflow itself takes five fields for six whose last one is missing, and so the minutes for seconds.

    Raises:
        UserError: it is no cron expression, or one that Kubeflow does not understand.
    """
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise UserError(f"cron '{expression}': has {len(fields)} fields instead of 5 or 6, {EXAMPLE}")
    six = fields if len(fields) == 6 else ["0", *fields]
    for name, field in zip(FIELDS.split(), six, strict=True):
        if wrong := set(field) & set("#LWHR@") - set("".join(_NAMES.get(name, ()))):
            raise UserError(f"cron '{expression}': Kubeflow does not know {min(wrong)!r} in the {name}")
    if "7" in six[-1]:
        raise UserError(f"cron '{expression}': Kubeflow counts the days of the week from 0 to 6; Sunday is 0")
    try:
        next(croniter(" ".join(six), _now(), second_at_beginning=True))
    except CroniterError as error:
        raise UserError(f"cron '{expression}': {error}; the fields are {FIELDS}, {EXAMPLE}") from None
    return " ".join(six)


_NAMES = {
    "month": ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
    "day-of-week": ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
}


def next_starts(cron: str, count: int) -> list[datetime]:
    """When runs will start next, in UTC, by an expression of six fields."""
    times = croniter(cron, _now(), second_at_beginning=True)
    return [times.get_next(datetime) for _ in range(count)]


def replace(client: Client, schedule: Schedule, job: Job, say: Callable[[str], None]) -> Any:
    """Create the recurring run, in place of those of its name; one that was paused stays paused.

    The new one is made paused, then the old one is deleted, then the new one is let go: at no time do two start runs,
    and an old one stays as it was if the server does not take the new one.
    """
    old = [one for one in every(client) if one.display_name == schedule.name]
    with tempfile.TemporaryDirectory() as folder, quietly():
        made = client.create_recurring_run(
            job_name=schedule.name,
            cron_expression=schedule.cron,
            max_concurrency=schedule.max_concurrency,
            no_catchup=not schedule.catch_up,
            enabled=False,
            **job.as_kfp(client, folder),
        )
    for one in old:
        client.delete_recurring_run(one.recurring_run_id)
        say(f"deleted the schedule {one.display_name} of before: {cron_of(one)} ({one.recurring_run_id})")
    if old and not any(is_active(one) for one in old):
        say(f"schedule {schedule.name} was paused and still is; `drtune-pipeline schedule resume {schedule.name}`")
    else:
        client.enable_recurring_run(made.recurring_run_id)
    return client.get_recurring_run(made.recurring_run_id)


def every(client: Client) -> list[Any]:
    """All recurring runs that can be seen, oldest first."""
    return everything(
        client.list_recurring_runs, "recurring_runs", sort_by="created_at asc", namespace=client.namespace
    )


def find(client: Client, name: str) -> list[Any]:
    """The recurring runs of that name; other tools may have made more than one.

    Raises:
        UserError: there is none.
    """
    known = every(client)
    found = [one for one in known if one.display_name == name]
    if not found:
        names = ", ".join(sorted({one.display_name for one in known})) or "none yet"
        raise UserError(f"schedule {name}: not there; there are {names}")
    return found


def is_active(recurring_run: Any) -> bool:
    """Whether it starts runs."""
    return str(recurring_run.status) == "ENABLED"


def cron_of(recurring_run: Any) -> str:
    """When it starts runs, as the server was told."""
    trigger = recurring_run.trigger
    if trigger.cron_schedule:
        return str(trigger.cron_schedule.cron)
    return f"every {trigger.periodic_schedule.interval_second} s"


def _now() -> datetime:
    return datetime.now(UTC)

"""Runs that start by themselves: recurring runs of Kubeflow, known by their name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, NamedTuple

from croniter import CroniterBadDateError, CroniterError, croniter

from drtune.errors import UserError
from pipelines.server.client import Client, everything, quietly
from pipelines.server.runs import Job

FIELDS = "[second] minute hour day-of-month month day-of-week"
EXAMPLE = "such as '0 3 * * 1' for Mondays at three"
_PART = r"(\*|\?|(\d+|[A-Za-z]{3})(-(\d+|[A-Za-z]{3}))?)(/\d+)?"
_KNOWN = re.compile(rf"{_PART}(,{_PART})*")
"""What robfig/cron, by which Kubeflow reads a field, has words for; croniter, which checks the numbers, knows more."""


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
        raise UserError(f"cron '{expression}': wants 5 or 6 fields, not {len(fields)}, {EXAMPLE}")
    six = fields if len(fields) == 6 else ["0", *fields]
    if unknown := [field for field in six if not _KNOWN.fullmatch(field)]:
        raise UserError(f"cron '{expression}': Kubeflow does not know {unknown[0]}; the fields are {FIELDS}, {EXAMPLE}")
    if re.search(r"(?<!/)7", six[-1]):
        raise UserError(f"cron '{expression}': Kubeflow counts the days of the week from 0 to 6; Sunday is 0")
    try:
        next_starts(" ".join(six), 1)
    except CroniterBadDateError:
        raise UserError(f"cron '{expression}': there is no such day in any year") from None
    except CroniterError:
        raise UserError(f"cron '{expression}': cannot be read; the fields are {FIELDS}, {EXAMPLE}") from None
    return " ".join(six)


def next_starts(cron: str, count: int) -> list[datetime]:
    """When runs will start next, in UTC, by an expression of six fields."""
    times = croniter(cron, _now(), second_at_beginning=True)
    return [times.get_next(datetime) for _ in range(count)]


def replace(client: Client, schedule: Schedule, job: Job, say: Callable[[str], None]) -> Any:
    """Create the recurring run, in place of those of its name; one that was paused stays paused.

    The new one is made paused, then the old one is deleted, then the new one is let go: at no time do two start runs,
    and the old one stays as it was if the server does not take the new one. `say` hears of each.
    """
    before = [one for one in every(client) if one.display_name == schedule.name]
    with job.as_kfp(client, say) as arguments, quietly():
        made = client.create_recurring_run(
            job_name=schedule.name,
            cron_expression=schedule.cron,
            max_concurrency=schedule.max_concurrency,
            no_catchup=not schedule.catch_up,
            enabled=False,
            **arguments,
        )
    say(f"schedule {schedule.name}: made, still paused, {made.recurring_run_id}")
    # Asked for only now, and those made before alone: of two who do this at once the later one's stays.
    old = list(takewhile(lambda one: one.recurring_run_id != made.recurring_run_id, find(client, schedule.name)))
    for one in old:
        client.delete_recurring_run(one.recurring_run_id)
        say(f"schedule {schedule.name}: deleted the one of before, {cron_of(one)}, {one.recurring_run_id}")
    if before and not any(map(is_active, before)):
        say(f"(the one of before was paused; `drtune-pipeline schedule resume {schedule.name}` lets this one go)")
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

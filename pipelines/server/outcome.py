"""What a run came to, in one line that says all that its reader needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import kfp_server_api
import urllib3

from components.endings import TOO_LONG, ending_in, last_line, reason_in, refused, stopped
from drtune.errors import UserError
from drtune.files.progress import spell
from pipelines.server.client import Client
from pipelines.server.logs import driver_log, step_log, words_for
from pipelines.server.package import Package
from pipelines.server.runs import Step, seconds_of, spoken, state_of

ENDINGS = {"publish": "published", "decide": refused(), "monitor": "succeeded"}
"""What came of a run by the last of these steps that it reached, where the log that says more is gone."""
_EXIT_CODE = re.compile(r"Error \(exit code \d+\)")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: str
    text: str
    """One line: published as what and where, refused by which rules, failed in which step and why."""
    is_decided: bool = False
    """Whether there is a report, with the decision on it."""

    @property
    def is_well(self) -> bool:
        """Whether the run did what it was for; a model that the policy refuses is no failure."""
        return self.state == "SUCCEEDED"


def outcome_of(client: Client, run: Any, package: Package, steps: list[Step]) -> Outcome:
    """What a run that is over came to.

    The facts stand in what its steps wrote: the API tells neither what a step gave nor why it failed.
    """
    state = state_of(run)
    seconds = seconds_of(run)
    duration = f" ({spell(seconds)})" if seconds is not None else ""
    done = {step.key for step in steps if step.state == "SUCCEEDED"}
    ended = [step for step in steps if step.state in ("FAILED", "CANCELED")]
    if state == "SUCCEEDED":
        text = f"{_ending(client, run, package, done)}{duration}"
    elif state == "CANCELED":
        text = stopped("cancelled", ended[0].name if ended else None) + duration
    elif ended:
        step = min(ended, key=lambda step: str(step.ended_at))  # the others may have failed for its sake
        text = _failure(client, run, package, step)
    else:
        text = f"{spoken(state)}{duration}; see {client.page(f'runs/details/{run.run_id}')}"
    return Outcome(state, text, "decide" in done)


def _ending(client: Client, run: Any, package: Package, done: set[str]) -> str:
    """What came of a run whose steps all went well."""
    for key, words in ENDINGS.items():
        if key in done:
            return ending_in(_asked(step_log, client, run, package, key)) or words
    return "succeeded"


def _failure(client: Client, run: Any, package: Package, step: Step) -> str:
    """What ended a run in this step: by its own words, or else by those of Argo, which ended it."""
    page = client.page(f"runs/details/{run.run_id}")
    if step.failed_before_it_started:
        words = last_line(_asked(driver_log, client, run, package, step.key))
        return stopped("failed", step.name, f"Kubeflow could not start it: {words or f'its driver failed; see {page}'}")
    of_argo = words_for(client, run, package, [step.key]).get(step.key, "").removeprefix("main: ")
    if "deadline" in of_argo:
        return stopped("out of time", step.name, TOO_LONG)
    if _EXIT_CODE.fullmatch(of_argo):
        of_argo = ""
    log = _asked(step_log, client, run, package, step.key)
    return stopped("failed", step.name, reason_in(log) or of_argo or last_line(log) or f"it left no log; see {page}")


def _asked(ask: Callable[..., str | None], client: Client, run: Any, package: Package, key: str) -> str:
    """What is in the log of a step or of its driver; nothing when it cannot be had."""
    with suppress(UserError, kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
        return ask(client, run, package, key) or ""
    return ""

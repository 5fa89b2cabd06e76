"""What a run came to, in one line that says all that its reader needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import kfp_server_api
import urllib3

from drtune.errors import UserError
from drtune.files.progress import spell
from pipelines.server.client import Client
from pipelines.server.logs import driver_log, last_line, step_log, why, words_for
from pipelines.server.package import Package
from pipelines.server.runs import Step, seconds_of, spoken, state_of

_PUBLISHED = re.compile(r"^(?P<name>\S+) (?P<version>v\d+) is in production: (?P<uri>\S+)$", re.MULTILINE)
"""What the step `publish` writes."""
_FAILED_RULE = re.compile(r"^  failed: (.*)$", re.MULTILINE)
"""What the step `decide` writes of each rule that refuses the model."""
_VERDICT = re.compile(r"^(?:stable|drifted|not enough data): .*$", re.MULTILINE)
"""What the step `monitor` writes first."""
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
    stopped = [step for step in steps if step.state in ("FAILED", "CANCELED")]
    if state == "SUCCEEDED":
        text = f"{_ending(client, run, package, done)}{duration}"
    elif state == "CANCELED":
        text = f"cancelled{f' in {stopped[0].name}' if stopped else ''}{duration}"
    elif stopped:
        step = min(stopped, key=lambda step: str(step.ended_at))  # the others may have failed for its sake
        text = f"failed in {step.name}: {_reason(client, run, package, step)}"
    else:
        text = f"{spoken(state)}{duration}; see {client.page(f'runs/details/{run.run_id}')}"
    return Outcome(state, text, "decide" in done)


def _ending(client: Client, run: Any, package: Package, done: set[str]) -> str:
    """What came of a run whose steps all went well."""
    if "publish" in done:
        found = _PUBLISHED.search(_asked(step_log, client, run, package, "publish"))
        return f"published as {found['name']} {found['version']} at {found['uri']}" if found else "published"
    if "decide" in done:
        rules = _FAILED_RULE.findall(_asked(step_log, client, run, package, "decide"))
        return f"refused: {'; '.join(rules)}" if rules else "refused by the policy"
    if "monitor" in done:
        verdict = _VERDICT.search(_asked(step_log, client, run, package, "monitor"))
        return verdict[0] if verdict else "succeeded"
    return "succeeded"


def _reason(client: Client, run: Any, package: Package, step: Step) -> str:
    """Why a step failed: by its own words, or else by those of Argo, which ended it."""
    page = client.page(f"runs/details/{run.run_id}")
    if step.failed_before_it_started:
        words = last_line(_asked(driver_log, client, run, package, step.key))
        return f"Kubeflow could not start it: {words or f'its driver failed; see {page}'}"
    of_argo = words_for(client, run, package, [step.key]).get(step.key, "").removeprefix("main: ")
    if "deadline" in of_argo:
        return f"out of time ({of_argo})"
    if _EXIT_CODE.fullmatch(of_argo):
        of_argo = ""
    log = _asked(step_log, client, run, package, step.key)
    return why(log) or of_argo or last_line(log) or f"it left no log; see {page}"


def _asked(ask: Callable[..., str | None], client: Client, run: Any, package: Package, key: str) -> str:
    """What is in the log of a step or of its driver; nothing when it cannot be had."""
    with suppress(UserError, kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
        return ask(client, run, package, key) or ""
    return ""

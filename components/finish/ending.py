"""The outcome of a run in words that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from components.finish.ask import Known, Pod
from components.registry import place_of
from drtune.errors import UserError
from drtune.files.storage import open_storage
from drtune.publishing.registry import Registry

TRACEBACK = "Traceback (most recent call last):"
REFUSED = "do not publish"
"""The line of the decision's log before its reasons."""
KILLED = {
    "OOMKilled": "it was out of memory",
    "Evicted": "its pod was evicted from its node",
    "ContainerStatusUnknown": "its node went away",
}


@dataclass(frozen=True)
class Ending:
    """One word for it, one sentence, and where to read more."""

    word: str
    sentence: str
    links: tuple[str, ...] = ()


def ending_of(known: Known, registry: str, name: str, environment: Mapping[str, str]) -> Ending:
    """What came of a run: published, refused, cancelled, out of time, failed, or not to be seen."""
    failed = next((step for step, state in known.steps.items() if state == "FAILED"), None)
    if known.cancelled:
        return Ending("Cancelled", f"cancelled{_where(known)}; nothing was published after that")
    if failed:
        return _failure(failed, known.pods.get(failed))
    if known.steps.get("publish") == "SUCCEEDED":
        return _publication(registry, name, environment)
    reasons = _reasons_of_refusal(known.pods.get("decide", Pod("")).log)
    if reasons or known.skipped:
        why = "; ".join(reasons) or "its rules stand in the decision's report"
        return Ending("Refused", f"refused by the policy, nothing is published: {why}", ("report: in the step decide",))
    if not known.steps and known.word:  # on one machine
        if known.word == "FAILED":
            return Ending("Failed", "failed; the last lines of the step that failed say why")
        return Ending("Succeeded", "succeeded; whether the model is published stands in the decision's report")
    doubts = "; ".join(known.doubts) or "Kubeflow does not say how"
    return Ending("Ended", f"ended{_where(known)}: refused, cancelled, out of time or lost; {doubts}")


def _publication(registry: str, name: str, environment: Mapping[str, str]) -> Ending:
    place = place_of(registry, environment)
    try:
        entry = Registry(open_storage(place, environment)).show(name)
    except (UserError, OSError) as error:
        return Ending("Published", f"published as {name} in {place}; which version it is could not be read ({error})")
    told = f"published as {entry.name} {entry.version} at {entry.uri}"
    return Ending("Published", told, (f"report: {entry.uri}/evaluation/report.html",))


def _failure(step: str, pod: Pod | None) -> Ending:
    if pod is None:
        return Ending("Failed", f"failed in {step}; why can only be seen in its log")
    if pod.reason == "DeadlineExceeded":
        return Ending("Out of time", f"out of time in {step}: it took longer than a step of its kind may")
    why = KILLED.get(pod.reason) or last_words(pod.log) or "without a word; its log may say more"
    return Ending("Failed", f"failed in {step}: {why}")


def last_words(log: str) -> str | None:
    """Why a step failed, in one line of its log: the message of its last exception, else its last `error: ` line."""
    _, raised, rest = log.rpartition(TRACEBACK)
    lines = rest.splitlines() if raised else []
    for number, line in enumerate(lines):
        if said := re.match(r"[A-Za-z_][\w.]*: (.+)", line):
            return _told(said[1], lines[number + 1 :])
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else None


def _told(message: str, below: list[str]) -> str:
    """The message; of one that introduces the last lines of a program, the last of those."""
    quoted: list[str] = []
    for line in below:
        if not line.startswith("  "):
            break
        quoted.append(line.strip())
    return quoted[-1].removeprefix("error: ") if message.endswith(":") and quoted else message


def _reasons_of_refusal(log: str) -> list[str]:
    _, _, rest = log.rpartition(f"{REFUSED}\n")
    return [line.removeprefix("  failed: ") for line in rest.splitlines() if line.startswith("  failed: ")]


def _where(known: Known) -> str:
    """The step that was under way."""
    step = next((step for step, state in known.steps.items() if state and state != "SUCCEEDED"), None)
    return f" in {step}" if step else ""

"""The outcome of a run in words that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.endings import TOO_LONG, ending_in, published, reason_in, refused, stopped
from components.finish.ask import Known, Pod
from components.registry import place_of
from drtune.errors import UserError
from drtune.files.storage import open_storage
from drtune.publishing.registry import Registry

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
    under_way = next((step for step, state in known.steps.items() if state and state != "SUCCEEDED"), None)
    if known.cancelled:
        return Ending("Cancelled", stopped("cancelled", under_way))
    if step := next((step for step, state in known.steps.items() if state == "FAILED"), None):
        return _failure(step, known.pods.get(step))
    if known.steps.get("publish") == "SUCCEEDED":
        return _publication(known.pods.get("publish", Pod("")).log, registry, name, environment)
    refusal = ending_in(known.pods.get("decide", Pod("")).log)
    if refusal or known.skipped:
        return Ending("Refused", refusal or refused(), ("report: in the step decide",))
    if not known.steps and known.word:  # on one machine
        if known.word == "FAILED":
            return Ending("Failed", "failed; the last lines of the step that failed say why")
        return Ending("Done", "done; whether the model is published stands in the decision's report")
    doubts = "; ".join(known.doubts) or "Kubeflow does not say how"
    return Ending("Ended", stopped("ended", under_way, f"refused, cancelled, out of time or lost; {doubts}"))


def _publication(log: str, registry: str, name: str, environment: Mapping[str, str]) -> Ending:
    """As the step itself says, or else what is in production now, which may be of a later run."""
    if told := ending_in(log):
        return Ending("Published", told, (f"report: {told.rpartition(' at ')[2]}/evaluation/report.html",))
    place = place_of(registry, environment)
    try:
        entry = Registry(open_storage(place, environment)).show(name)
    except (UserError, OSError) as error:
        return Ending("Published", f"published as {name} in {place}; which version it is could not be read ({error})")
    told = published(entry.name, entry.version, entry.uri)
    return Ending("Published", told, (f"report: {entry.uri}/evaluation/report.html",))


def _failure(step: str, pod: Pod | None) -> Ending:
    if pod is None:
        return Ending("Failed", stopped("failed", step, "why can only be seen in its log"))
    if pod.reason == "DeadlineExceeded":
        return Ending("Out of time", stopped("out of time", step, TOO_LONG))
    why = KILLED.get(pod.reason) or reason_in(pod.log) or "without a word; its log may say more"
    return Ending("Failed", stopped("failed", step, why))

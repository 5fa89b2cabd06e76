"""What came of a run, in one line: as its steps write it, as it is read back from their logs, and why a step failed.

Neither Kubeflow nor Kubernetes knows it. The last step of a run, whoever waits for a run on a server, and the display
of a run on one machine read it here, and say it in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from drtune.errors import UserError

if TYPE_CHECKING:
    from drtune.contracts import DriftOutcome

TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"(?P<kind>[A-Za-z_][\w.]*): (?P<message>.*)")
_MISTAKE = "error: "
"""What a program of ours writes before the one line on a mistake of its user."""
_OF_THE_LAUNCHER = re.compile(r"[IWEF]\d{4} .*\.go:\d+\] ?")
"""What stands before each line of KFP's own launcher, which starts the step."""
_OF_ARGO = re.compile(r"Error: exit status \d+|.*\bargo\W{1,3}true\b.*")
"""A line of Argo's, which starts the launcher: emissary.go marks each by argo=true."""
_MOUNTED = re.compile(r"(?<![\w./:-])/(minio|s3|gcs)/(?=[\w.-]+/)")
_SCHEMES = {"minio": "minio://", "s3": "s3://", "gcs": "gs://"}
_ENDING = re.compile(r"^(?:published as |(?:refused|drifted|stable|not enough data): ).*$", re.MULTILINE)
TOO_LONG = "it took longer than a step of its kind may"
"""Of a step that is out of time."""


def published(name: str, version: str, uri: str) -> str:
    """As the step `publish` writes it."""
    return f"published as {name} {version} at {uri}"


def refused(rules: Sequence[str] = ()) -> str:
    """As the step `decide` writes it: by which rules of the policy, as far as they are known."""
    return f"refused: {'; '.join(rules)}" if rules else "refused by the policy"


def compared(outcome: DriftOutcome, reason: str) -> str:
    """As the step `monitor` writes it."""
    return f"{outcome}: {reason}"


def stopped(how: Literal["cancelled", "failed", "out of time", "ended"], step: str | None, why: object = "") -> str:
    """Of a run that did not come to its end; no step writes this. Without a step it was between two."""
    return how + (f" in {step}" if step else "") + (f": {why}" if why else "")


def ending_in(log: str) -> str | None:
    """The line in which one of these steps wrote what came of the run."""
    found = _ENDING.search(log)
    return found[0] if found else None


def mistake_in(lines: Iterable[str]) -> str | None:
    """The last mistake of a user that a program told in a line `error: ...`."""
    told = [line.removeprefix(_MISTAKE) for line in lines if line.startswith(_MISTAKE)]
    return told[-1] if told else None


@dataclass(frozen=True)
class Reason:
    """Why a step failed, by its own account; as a string in one line that means something outside of its pod."""

    message: str
    below: tuple[str, ...] = ()
    """The lines under it, such as the last ones of a program that the step had started."""
    by_user: bool = True

    def __str__(self) -> str:
        below = [line.strip() for line in self.below]
        return by_address(mistake_in(below) or " ".join(dict.fromkeys([self.message, *below[-1:]])))


def reason_in(log: str) -> Reason | None:
    """Why a step failed: its own `error: ...`, or its last exception, whichever came last."""
    _, raised, end = log.rpartition(TRACEBACK)
    lines = [line for line in _of_the_step(end) if not _OF_THE_LAUNCHER.match(line)]
    if mistake := mistake_in(lines):
        return Reason(mistake)
    for number, line in enumerate(lines if raised else []):
        if found := _RAISED.fullmatch(line):
            by_user = found["kind"].split(".")[-1] == UserError.__name__
            return Reason(found["message"], tuple(lines[number + 1 :]), by_user)
    return None


def was_cancelled(states: Sequence[str]) -> bool:
    """Whether a run was told to end since it last began; Kubeflow calls it FAILED in the end, and only this tells.

    Args:
        states: What it has been, in order; one that is tried again is RUNNING anew.
    """
    told = [state for state in states if state in ("RUNNING", "CANCELING", "CANCELED")]
    return bool(told) and told[-1] != "RUNNING"


def last_line(log: str) -> str | None:
    """The last line that says something, be it the launcher's."""
    lines = _of_the_step(log)
    return by_address(_OF_THE_LAUNCHER.sub("", lines[-1])) if lines else None


def _of_the_step(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.strip() and not _OF_ARGO.fullmatch(line)]


def by_address(text: str) -> str:
    """What is written in a pod, with artifacts called by their addresses.

    Kubeflow shows a step its artifacts below /minio, /s3 and /gcs, by bucket and key. These paths are gone with the pod
    and mean nothing to who reads of them.
    """
    return _MOUNTED.sub(lambda found: _SCHEMES[found[1]], text)

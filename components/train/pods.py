"""What a pod's status says: what it waits for, and how it ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from components.process import LINES_KEPT
from components.train.job import Manifest

_NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_NO_START = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not run yet."""

    text: str
    is_hopeless: bool = False
    """Waiting alone will hardly help."""
    is_placeless: bool = False
    """No machine of the cluster has room for it."""


@dataclass(frozen=True)
class Ending:
    """How a pod ended."""

    exit_code: int
    finished_at: str
    text: str
    last_lines: list[str]
    """As the cluster kept them."""

    @property
    def succeeded(self) -> bool:
        """Whether it did what it was to do."""
        return self.exit_code == 0

    @property
    def is_retried(self) -> bool:
        """Whether the job starts it again: after a signal, or when it was evicted."""
        return self.exit_code > 127


def trouble_of(pod: Manifest) -> Trouble | None:
    """What keeps a pod from running, in the words of the scheduler or of the node."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message") or condition.get("reason") or "no reason given"
            return Trouble(f"is pending, cannot be scheduled: {message}", is_placeless=True)
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _NO_IMAGE:
            return Trouble(f"cannot pull its image {container.get('image', '')}: {message or reason}", is_hopeless=True)
        if reason in _NO_START:
            return Trouble(f"cannot start: {reason}: {message}", is_hopeless=True)
    return None


def ending_of(pod: Manifest, container: str) -> Ending | None:
    """How the container that trains ended, or the whole pod; None while it has not."""
    status = pod.get("status", {})
    for found in status.get("containerStatuses", []):
        if found["name"] == container and (ended := found.get("state", {}).get("terminated")):
            return _of_container(pod, ended)
    if status.get("phase") == "Failed":  # without a container: evicted, or its node is gone
        text = f"was lost: {status.get('reason') or 'its node is gone'}: {status.get('message') or 'no message'}"
        return Ending(128 + signal.SIGKILL, "", text, [])
    return None


def _of_container(pod: Manifest, ended: Manifest) -> Ending:
    code = ended["exitCode"]
    if code > 128 and code - 128 in set(signal.Signals):
        how = f"was ended by {signal.Signals(code - 128).name}"
    else:
        how = f"ended with exit code {code}"
    if ended.get("reason") == "OOMKilled":
        how += ", out of memory (raise `memory`)"
    status = pod["status"]
    disrupted = [entry for entry in status.get("conditions", []) if entry["type"] == "DisruptionTarget"]
    if status.get("reason") == "Evicted":
        how += f", evicted: {status.get('message', '')}"
    elif disrupted and disrupted[0]["status"] == "True":
        how += f", {disrupted[0].get('reason', 'disrupted')}: {disrupted[0].get('message', '')}"
    lines = [line for line in ended.get("message", "").splitlines() if line.strip()]
    return Ending(code, ended.get("finishedAt") or "", how, lines[-LINES_KEPT:])

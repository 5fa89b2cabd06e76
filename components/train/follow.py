"""A job from its creation to its end: what becomes of it and of its pods, told as it happens, and judged at the end."""

from __future__ import annotations

import queue
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.endings import mistake_in
from components.train.cluster import Cluster
from components.train.job import JobStatus, Manifest, Phase, node_of, place_of, ranks_of, status_of
from components.train.logs import PodLog, StepLog
from components.train.pods import Ending, Trouble, ending_of, trouble_of
from components.train.spec import JobSpec
from drtune.errors import UserError

DRAIN_SECONDS = 10.0
"""What logs may still take to arrive when all is over."""
EVENTS_AFTER_SECONDS = 60.0
"""A job that lacks pods for so long has events that say why."""


class TrainingFailedError(RuntimeError):
    """The training did not succeed; the message says why, and what was written last."""


class _News(NamedTuple):
    of: str
    """`job` or `pods`."""
    type: str
    """LISTED, ADDED, MODIFIED, DELETED, or FAILED with the exception that ended the watch."""
    value: Any


class Follower:
    """Follows one job until it succeeded; everything else raises.

    Raises:
        TrainingFailedError: the job failed, vanished, did not start or end in time, or was restarted too often.
        UserError: the training itself refused what it was given, or the cluster refuses to be watched.
        SystemExit: `cancelled` was set.
    """

    def __init__(
        self, cluster: Cluster, spec: JobSpec, job: Manifest, log: StepLog, cancelled: threading.Event
    ) -> None:
        self.cluster, self.spec, self.log, self.cancelled = cluster, spec, log, cancelled
        self.name, self.uid = job["metadata"]["name"], job["metadata"]["uid"]
        self.place = place_of(spec)
        self.pods: dict[str, Manifest] = {}
        """By uid: as they were last seen, those that are gone too."""
        self._gone: set[str] = set()
        self.logs: dict[str, PodLog] = {}
        self.status = JobStatus("created", "")
        """What has become of the job; its own word, `_stated`, lags behind its pods."""
        self._stated = self.status
        self.waits_since = time.time()  # not since its creation: one that is adopted may have run for days
        self.started_at: float | None = None
        """When its nodes ran for the first time since it was created or held back."""
        self._restarts_before = 0
        self._said: set[tuple[str, str]] = set()
        self._endings: dict[str, str] = {}
        """How pods ended that did not succeed, by uid: said when all that they wrote is shown."""
        self._hopeless_since: dict[str, float] = {}
        self._placeless_since: float | None = None
        self._events_asked = 0.0
        self._why_pods_are_missing: list[str] = []
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()

    def run(self) -> None:
        """Follow to the end."""
        by_name = {"fieldSelector": f"metadata.name={self.name}"}
        self._listen("job", self.cluster.watch(self.cluster.jobs(self.place), by_name))
        self._listen("pods", self.cluster.watch(self.cluster.core("pods"), self.place.pods_of(self.name)))
        while self.status.phase != "succeeded":
            self._hear(seconds=1.0)
            self._tell_endings()
            if self.cancelled.is_set():
                raise SystemExit(128 + signal.SIGTERM)
            if self.status.phase == "failed" or self._is_hopeless():
                self._fail_as_the_job()
            self._advise_on_places()
            self._ask_why_pods_are_missing()
            self._refuse_too_late()
        self._drain()

    # ------------------------------------------------------------------------------------------------------------------

    def _listen(self, of: str, changes: Iterator[tuple[str, Any]]) -> None:
        def pump() -> None:
            try:
                for kind, value in changes:
                    self._news.put(_News(of, kind, value))
            except Exception as error:  # it belongs to the thread that waits for news
                if not self.cluster.closed.is_set():
                    self._news.put(_News(of, "FAILED", error))

        threading.Thread(target=pump, name=f"watch of {of}", daemon=True).start()

    def _hear(self, seconds: float) -> bool:
        """Take one piece of news, if it comes in time."""
        try:
            news = self._news.get(timeout=seconds)
        except queue.Empty:
            return False
        if news.type == "FAILED":
            raise news.value
        if news.of == "job":
            self._take_job(news)
        elif news.type == "LISTED":
            there = {pod["metadata"]["uid"]: pod for pod in news.value}
            for uid in self.pods.keys() - there.keys():
                self._take_pod(self.pods[uid], is_gone=True)
            for pod in there.values():
                self._take_pod(pod)
        else:
            self._take_pod(news.value, is_gone=news.type == "DELETED")
        self._judge()
        return True

    def _take_job(self, news: _News) -> None:
        listed = news.value if news.type == "LISTED" else [news.value]
        job = next((job for job in listed if job["metadata"]["uid"] == self.uid), None)
        if news.type == "DELETED" and job is None:
            return  # another job, which had the name before
        if news.type == "DELETED" or job is None:
            raise TrainingFailedError(
                f"training job {self.name} vanished: it or its owner was deleted before it succeeded or failed"
            )
        self._stated = status_of(job)

    def _judge(self) -> None:
        """Conclude what has become of the job, and say so when that is news."""
        phase = self._phase()
        if phase == "suspended" and self.started_at is not None:
            self.waits_since, self.started_at = time.time(), None  # whoever holds it back may let it run anew
        if phase in ("running", "restarting", "succeeded") and self.started_at is None:
            self.started_at = time.time()
        if phase == "running" and self.status.phase != "running":
            self._restarts_before = self.restarts()
        is_news = phase != self.status.phase
        self.status = JobStatus(phase, self._stated.message)
        if is_news:
            self.log.say(self._told())

    def _phase(self) -> Phase:
        stated = self._stated.phase
        if stated not in ("succeeded", "failed") and self._is_hopeless():
            return self.status.phase  # whatever its operator tries now
        if stated not in ("created", "pending"):
            return stated
        if self.started_at is None:
            return "pending" if self.pods else "created"
        # It has run, and not all of its nodes do now: they have ended, or start again.
        return "restarting" if self.restarts() > self._restarts_before else self.status.phase

    def _told(self) -> str:
        """The job's status in words."""
        message = f" ({self.status.message})" if self.status.message else ""
        match self.status.phase:
            case "suspended":
                where = f"queue {self.spec.queue}" if self.spec.queue else "whoever suspended it"
                return f"training job {self.name}: suspended, waits for {where}{message}"
            case "restarting":
                return f"training job {self.name}: restarting from its newest checkpoint, not failed{message}"
            case "pending":
                return f"training job {self.name}: pending, waits until its nodes run"
            case phase:
                return f"training job {self.name}: {phase}{message}"

    # ------------------------------------------------------------------------------------------------------------------

    def _take_pod(self, pod: Manifest, *, is_gone: bool = False) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        self.pods[uid] = pod
        if is_gone:
            self._gone.add(uid)
        trouble, ending = trouble_of(pod), ending_of(pod, self.place.container)
        has_written = ending is not None or _is_running(pod, self.place.container)
        if uid not in self.logs and has_written and not is_gone:
            self.logs[uid] = PodLog(self.cluster, name, self.place.container, self._ranks(pod), self.log)
            self.logs[uid].start()
        if uid in self.logs and (is_gone or ending):
            self.logs[uid].over.set()
        if trouble and not is_gone:
            self._say_once(uid, f"[{self._ranks(pod)}] {trouble.text}")
        if ending and not ending.succeeded:
            self._endings[uid] = f"[{self._ranks(pod)}] {ending.text}"
        if trouble and trouble.is_hopeless and not is_gone:
            self._hopeless_since.setdefault(uid, time.monotonic())
        else:
            self._hopeless_since.pop(uid, None)
        if (count := self.restarts()) > self.spec.restarts:
            raise TrainingFailedError(
                f"training job {self.name} was restarted {count} times, more than restarts={self.spec.restarts}"
                f"{self._last_words()}"
            )

    def restarts(self) -> int:
        """How often the unluckiest node was started again."""
        tries: dict[int, int] = {}
        for pod in self.pods.values():
            node = node_of(pod, self.spec)
            inside = sum(status.get("restartCount", 0) for status in pod.get("status", {}).get("containerStatuses", []))
            tries[node] = tries.get(node, -1) + 1 + inside
        return max(tries.values(), default=0)

    def _ranks(self, pod: Manifest) -> str:
        return ranks_of(node_of(pod, self.spec), self.spec)

    def _tell_endings(self, *, is_late: bool = False) -> None:
        """Say how pods ended, each behind its own last line; those too that have not shown it yet when it `is_late`."""
        for uid, text in self._endings.items():
            if is_late or uid not in self.logs or not self.logs[uid].is_alive():
                self._say_once(uid, text)

    def _say_once(self, uid: str, text: str) -> None:
        if (uid, text) not in self._said:
            self._said.add((uid, text))
            self.log.say(text)

    # ------------------------------------------------------------------------------------------------------------------

    def _refuse_too_late(self) -> None:
        now = time.time()
        if self.started_at is None:
            if now - self.waits_since > self.spec.start_timeout_seconds:
                raise TrainingFailedError(
                    f"training job {self.name} did not start in start_timeout_seconds={self.spec.start_timeout_seconds}"
                    f" ({self.status.phase}){self._told_troubles()}"
                )
        elif now - self.started_at > self.spec.run_timeout_seconds:
            raise TrainingFailedError(
                f"training job {self.name} did not end in run_timeout_seconds={self.spec.run_timeout_seconds}"
            )
        for since in self._hopeless_since.values():
            if time.monotonic() - since > self.spec.pull_timeout_seconds:
                raise TrainingFailedError(
                    f"training job {self.name} is without what it needs for pull_timeout_seconds="
                    f"{self.spec.pull_timeout_seconds}{self._told_troubles()}"
                )

    def _troubles(self) -> list[tuple[Manifest, Trouble]]:
        """The pods that do not run yet, and why."""
        there = [pod for uid, pod in self.pods.items() if uid not in self._gone]
        return [(pod, trouble) for pod in there if (trouble := trouble_of(pod))]

    def _told_troubles(self) -> str:
        told = {f"[{self._ranks(pod)}] {trouble.text}" for pod, trouble in self._troubles()}
        told |= {f"it {text}" for text in self._why_pods_are_missing if self._lacks_pods()}
        return "".join(f"\n  {text}" for text in sorted(told))

    def _advise_on_places(self) -> None:
        """Say, once, what can be done about nodes that no machine has room for."""
        if not any(trouble.is_placeless for _, trouble in self._troubles()):
            self._placeless_since = None
            return
        self._placeless_since = self._placeless_since or time.monotonic()
        patience = self.spec.pending_patience_seconds
        if time.monotonic() - self._placeless_since > patience:
            self._say_once(
                self.uid,
                f"training job {self.name}: the cluster has no room for it in pending_patience_seconds={patience}: "
                "lower cpu, memory, gpus_per_node or scratch in the cluster file, free or add nodes, or terminate the "
                f"run; it waits for start_timeout_seconds={self.spec.start_timeout_seconds} in all",
            )

    def _lacks_pods(self) -> bool:
        there = len(self.pods.keys() - self._gone)
        return self.status.phase in ("created", "pending") and there < self.spec.least_nodes

    def _ask_why_pods_are_missing(self) -> None:
        now = time.time()
        if not self._lacks_pods() or now - max(self.waits_since, self._events_asked) < EVENTS_AFTER_SECONDS:
            return
        self._events_asked = now
        names = [f"{self.name}{maker}" for maker in self.place.makers]
        queries = [{"fieldSelector": f"involvedObject.name={name},type=Warning"} for name in names]
        lists = [self.cluster.read(self.cluster.core("events"), query)["items"] for query in queries]
        reasons = [f": {event.get('reason')}: {event.get('message')}" for events in lists for event in events]
        reasons = reasons or [", and no event says why: is its operator running?"]
        self._why_pods_are_missing = [f"lacks pods{reason}" for reason in reasons]
        for text in self._why_pods_are_missing:
            self._say_once(self.uid, f"training job {self.name} {text}")

    # ------------------------------------------------------------------------------------------------------------------

    def _is_hopeless(self) -> bool:
        """Whether a node failed in a way that starting it again cannot help, whatever its operator does."""
        return any(not ending.is_retried for _, ending in self._failures())

    def _fail_as_the_job(self) -> None:
        """Raise what the first pod that failed says; its end and the job's may come in either order."""
        give_up = time.monotonic() + DRAIN_SECONDS / 2
        while time.monotonic() < give_up and not (self._failures() and self.status.phase == "failed"):
            self._hear(seconds=0.5)
        self._drain()
        failures = self._failures()
        lines = self._lines_of(failures[0][0]) if failures else []
        mistake = mistake_in(lines)
        if mistake and failures[0][1].exit_code == UserError.exit_code:
            raise UserError(mistake)
        reason = self.status.message if self.status.phase == "failed" else "starting it again would not help"
        raise TrainingFailedError(f"training job {self.name} failed: {reason or 'no reason given'}{self._last_words()}")

    def _failures(self) -> list[tuple[str, Ending]]:
        """The pods that failed of themselves, the first one first; then those that a signal ended."""
        ends = [(uid, ending_of(pod, self.place.container)) for uid, pod in self.pods.items()]
        failed = [(uid, ending) for uid, ending in ends if ending is not None and not ending.succeeded]
        return sorted(failed, key=lambda end: (end[1].is_retried, end[1].finished_at))

    def _last_words(self) -> str:
        """The rank that failed, how, and its last lines."""
        if not (failures := self._failures()):
            return ""
        uid, ending = failures[0]
        lines = self._lines_of(uid)
        named = [found[1] for line in lines if (found := re.match(r"(rank \d+) ended with ", line))]
        who = named[-1] if named else self._ranks(self.pods[uid])
        return "\n  ".join([f"; {who} {ending.text}; it wrote last:", *lines])

    def _lines_of(self, uid: str) -> list[str]:
        """What the pod wrote last: as it was streamed, or else as the cluster kept it."""
        seen = self.logs[uid].last_lines() if uid in self.logs else []
        ending = ending_of(self.pods[uid], self.place.container)
        return seen or (ending.last_lines if ending else [])

    def _drain(self) -> None:
        """Wait until all logs are read to their end."""
        pods = self.cluster.read(self.cluster.core("pods"), self.place.pods_of(self.name))["items"]
        for pod in pods:  # what became of the job may be known before what became of them: they are watched apart
            if pod["metadata"]["uid"] not in self.logs:
                self._take_pod(pod)
        give_up = time.monotonic() + DRAIN_SECONDS
        while any(log.is_alive() for log in self.logs.values()) and time.monotonic() < give_up:
            self._hear(seconds=0.2)
            if self.status.phase == "succeeded":
                for log in self.logs.values():
                    log.over.set()
        self._tell_endings(is_late=True)


def _is_running(pod: Manifest, container: str) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any(status["name"] == container and "running" in status.get("state", {}) for status in statuses)

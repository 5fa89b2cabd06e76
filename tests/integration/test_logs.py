"""Logs of pods at full speed, and what following a training costs the API server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.train.cluster import Cluster
from components.train.follow import Follower
from components.train.job import to_job
from components.train.logs import LONGEST_LINE, PodLog, StepLog
from components.train.spec import JobSpec
from tests.cluster_api import ClusterApi, Log
from tests.operator import JOBS, PODS, PlayedJob, until

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
READER = """
import json, resource, sys, threading, time
from kubernetes.client import ApiClient, Configuration
from components.train.cluster import Cluster
from components.train.logs import PodLog, StepLog
from drtune.lifetime import most_resident

class Counting:
    lines, size, peaks = 0, 0, []
    def write(self, content):
        self.lines += content.count(b"\\n")
        self.size += len(content)
        while self.size >= len(self.peaks) * 8 * 2**20:
            self.peaks.append(most_resident(resource.getrusage(resource.RUSAGE_SELF)))
    def flush(self): pass

settings = Configuration()
settings.host, settings.retries = sys.argv[1], False
counting = Counting()
log = PodLog(Cluster(ApiClient(settings), "default"), "pod", "pytorch", "rank 3", StepLog(counting))
started = time.process_time()
log.start()
threading.Timer(1.0, log.over.set).start()
log.join()
print(json.dumps({"lines": counting.lines, "peaks": counting.peaks, "seconds": time.process_time() - started}))
"""


def follow(api: ClusterApi) -> tuple[PodLog, io.BytesIO]:
    """A log of the pod that is being followed."""
    written = io.BytesIO()
    log = PodLog(Cluster(api.client(), "default"), "pod", "pytorch", "rank 3", StepLog(written))
    log.start()
    return log, written


@pytest.fixture
def pod(api: ClusterApi) -> str:
    api.put(PODS, {"metadata": {"name": "pod"}})
    api.logs["pod"] = Log()
    return "pod"


def test_four_mebibytes_a_second_pass_through_in_flat_memory(api: ClusterApi, pod: str) -> None:
    line = b"x" * 180
    count = 40 * MIB // len(line)
    with subprocess.Popen(
        [sys.executable, "-c", READER, api.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as reader:
        for _ in range(40):  # no faster than it reads: what the server keeps is not measured here
            api.write(pod, *[line] * (count // 40))
            time.sleep(0.05)
        api.close_log(pod)
        output, _ = reader.communicate(timeout=120)
    seen = json.loads(output)
    assert seen["lines"] == 40 * (count // 40)
    assert seen["peaks"][-1] - seen["peaks"][1] < 4 * MIB, seen["peaks"]
    assert 40 / seen["seconds"] > 4, f"{seen['seconds']:.1f} s of one core for 40 MiB"


def test_a_line_without_an_end_is_shown_in_pieces(api: ClusterApi, pod: str) -> None:
    log, written = follow(api)
    api.write(pod, b"y" * (3 * LONGEST_LINE), b"after it")
    api.close_log(pod)
    log.over.set()
    log.join(10)
    lines = written.getvalue().splitlines()
    assert lines[-1] == b"[rank 3] after it"
    assert sum(line.count(b"y") for line in lines) == 3 * LONGEST_LINE
    assert max(map(len, lines)) < 2 * LONGEST_LINE


@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=12),
    times=st.lists(st.integers(0, 3), max_size=12),
    breaks=st.lists(st.integers(0, 700), max_size=4),
    zone=st.sampled_from(["Z", "+00:00", "+08:00"]),
)
def test_wherever_streams_break_every_line_is_shown_once(
    lines: list[bytes], times: list[int], breaks: list[int], zone: str
) -> None:
    """Lines may have equal times, and times may lack digits."""
    stamps = sorted((times + [3] * len(lines))[: len(lines)])
    fractions = {0: "", 1: ".5", 2: ".51", 3: ".510000001"}
    content = b"".join(
        f"2026-01-01T09:00:00{fractions[stamp]}{zone} ".encode() + line + b"\n"
        for stamp, line in zip(stamps, lines, strict=True)
    )
    server = Breaking(content, breaks)
    written = io.BytesIO()
    log = PodLog(server, "pod", "pytorch", "rank 0", StepLog(written))  # type: ignore[arg-type]
    log.over = Rushed()
    server.over = log.over
    log.run()
    assert written.getvalue() == b"".join(b"[rank 0] " + line + b"\n" for line in lines)


class Rushed(threading.Event):
    """An event that nobody waits for."""

    def wait(self, _timeout: float | None = None) -> bool:
        return self.is_set()


class Paced(Rushed):
    """One that knows how many seconds each would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return super().wait(timeout)


class Breaking:
    """A cluster whose log streams break off after some bytes, and at last do not."""

    def __init__(self, content: bytes, breaks: list[int]) -> None:
        self.content, self.breaks = content, breaks
        self.closed, self.over = threading.Event(), threading.Event()

    def log(self, _pod: str, _container: str, _since: str) -> Iterator[bytes]:
        if not self.breaks:
            self.over.set()
        end = self.breaks.pop() if self.breaks else len(self.content)
        for start in range(0, end, 50):
            yield self.content[start : min(start + 50, end)]


def test_following_a_training_asks_the_server_nothing_while_nothing_happens(api: ClusterApi) -> None:
    spec = JobSpec.model_validate({"storage": "s3://runs", "backend": "pytorchjob", "nodes": 8})
    job = api.put(JOBS, to_job(spec, "drtune-a", "s3://runs/a"))
    cluster, written = Cluster(api.client(), "default"), io.BytesIO()
    following = threading.Thread(target=Follower(cluster, spec, job, StepLog(written), threading.Event()).run)
    following.start()
    played = PlayedJob(api, job)
    for node in range(8):
        played.runs(node)
    played.says("Running")
    until(lambda: api.counted("GET", "/log") == 8)
    assert len(api.requests) == 2 + 2 + 8  # two lists, two watches, and the logs
    for number in range(50):
        api.write(played.pod_name(number % 8), f"line {number}")
        time.sleep(0.1)
    assert len(api.requests) == 12
    played.says("Succeeded")
    following.join(30)
    assert written.getvalue().count(b"line ") == 50


def test_watches_that_break_at_once_are_asked_for_more_and_more_slowly(api: ClusterApi) -> None:
    cluster, closed = Cluster(api.client(), "default"), Paced()
    cluster.closed = closed
    api.fault("GET", "watch=true", 500, times=10**6)
    watching = threading.Thread(target=list, args=(cluster.watch(PODS, {}),), daemon=True)
    watching.start()
    until(lambda: len(closed.pauses) >= 7)
    cluster.close()
    watching.join(10)
    assert closed.pauses[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert 7 <= api.counted("GET", "watch=true") <= len(closed.pauses)

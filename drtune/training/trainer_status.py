"""How far a training is, in the status of its TrainJob, for whoever looks at it by kubectl or a dashboard.

Kubeflow Trainer (2.2 and newer, with its feature gate TrainJobStatus) tells each node where to post it
(pkg/runtime/framework/plugins/trainjobstatus of kubeflow/trainer), and checks it against UpdateTrainJobStatusRequest.
"""

from __future__ import annotations

import json
import math
import os
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from drtune.errors import UserError
from drtune.training.history import METRICS, mean_reward, pace_of, read_metrics

URL, CERTIFICATE, TOKEN = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
NODE = "PET_NODE_RANK"
PAUSE_SECONDS = 15.0
"""Every post is a write to the cluster's API server."""
TIMEOUT_SECONDS = 5.0
LONGEST = 64
"""Characters of a metric's name and value."""


@contextmanager
def shown_in_trainer(
    folder: Path, steps: int, environment: Mapping[str, str] = os.environ, pause_seconds: float = PAUSE_SECONDS
) -> Iterator[None]:
    """Within, post the state of the run in `folder` again and again, and a last time at the end; the first node does.

    A post that does not arrive changes nothing, and is told once. Where no Trainer asks for it nothing is posted.

    Args:
        folder: of the run, which may not be there yet.
        steps: updates that it is to make.
        environment: what Trainer sets in a node.
        pause_seconds: between two posts.
    """
    if not environment.get(URL) or environment.get(NODE, "0") != "0":
        yield
        return
    ends, told = threading.Event(), list[str]()

    def post() -> None:
        try:
            if status := status_of(folder, steps):
                _post(status, environment)
        except (OSError, HTTPException, UserError, ValueError) as error:
            if not told:
                told.append(f"the TrainJob's status does not show how far this is ({type(error).__name__})")
                print(told[0], file=sys.stderr, flush=True)

    def go_on() -> None:
        while not ends.wait(pause_seconds):
            post()

    thread = threading.Thread(target=go_on, name="trainer-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        post()


def status_of(folder: Path, steps: int) -> dict[str, Any] | None:
    """The run's `trainerStatus`; None before its first update."""
    if not (folder / METRICS).exists() or not (updates := read_metrics(folder)):
        return None
    last = updates[-1]
    metrics = {"reward": mean_reward(updates), **last.rewards, "grad_norm": last.grad_norm}
    left = pace_of(updates) * (steps - last.step)
    return {
        "progressPercentage": min(100, 100 * last.step // steps),
        "estimatedRemainingSeconds": max(0, math.ceil(left)) if math.isfinite(left) else 0,
        "metrics": [{"name": name[-LONGEST:], "value": f"{value:.6g}"} for name, value in metrics.items()],
        "lastUpdatedTime": datetime.fromtimestamp(last.at, UTC).isoformat(timespec="seconds"),
    }


def _post(status: dict[str, Any], environment: Mapping[str, str]) -> None:
    token = Path(environment[TOKEN]).read_text(encoding="utf-8").strip()  # it is renewed every hour
    context = ssl.create_default_context(cafile=environment[CERTIFICATE])
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = Request(environment[URL], json.dumps({"trainerStatus": status}).encode(), headers)
    inside = build_opener(ProxyHandler({}), HTTPSHandler(context=context))  # a proxy is for the world outside
    inside.open(request, timeout=TIMEOUT_SECONDS).close()

"""A cluster that the stories are told on, and a run on it: by the command line that people use, and Kubernetes' API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kubernetes import client, config

from components.train.job import PLACES, job_name
from drtune.files.storage import Storage, open_storage

ROOT = Path(__file__).parents[2]
WANTED = ("KUBECONFIG", "KF_PIPELINES_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""What leads to the cluster and to its S3 server, as seen from here."""
SMALL = "manifests/platform/small.yaml"
CLUSTER = "configs/cluster-small.yaml"
"""Two nodes that need no GPU and half a CPU each."""
SHORT = ("steps=2", "evaluation.max_prompts=4", "evaluation.sampler.steps=2")
"""A training that the policy refuses, as soon as can be."""
LONG = ("steps=30", "checkpoint_every=3", *SHORT[1:])
"""Long enough for things to happen to it."""
MINUTE = 60.0
JOBS = "jobs"
"""Stories with a training job, of which the cluster has room for one at a time."""
OVER = ("succeeded", "failed", "canceled", "cancelled", "skipped")
T = TypeVar("T")


def story(group: str) -> list[pytest.MarkDecorator]:
    """The marks of a story; those of a group are told one after the other, other groups beside them."""
    return [pytest.mark.cluster, pytest.mark.timeout(6000), pytest.mark.xdist_group(group)]


def eventually(what: str, look: Callable[[], T], seconds: float) -> T:
    """What `look` finds, once it finds something; fails after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up, f"{what}: not after {seconds:.0f} s; last seen: {found!r}"
        time.sleep(5)
    return found


def parameters(**given: str | Sequence[str]) -> list[str]:
    """Parameters as the command line takes them; a list is JSON.

    >>> parameters(name="mine", overrides=["steps=2"])
    ['name=mine', 'overrides=["steps=2"]']
    """
    return [f"{key}={value if isinstance(value, str) else json.dumps(list(value))}" for key, value in given.items()]


@dataclass(frozen=True)
class Site:
    """The cluster, the pipelines compiled for its images, and a place of this session's own on its S3 server."""

    namespace: str
    packages: Path
    environment: Mapping[str, str]
    account: str = "drtune-launcher"
    own: str = field(default_factory=lambda: f"s3://drtune/e2e-{uuid.uuid4().hex[:8]}")

    @classmethod
    def at_hand(cls, packages: Path) -> Site:
        """The cluster that the environment names; skips where it names none."""
        if missing := [name for name in WANTED if not os.environ.get(name)]:
            pytest.skip(f"needs a cluster with Kubeflow (tests/cluster/README.md); not set: {', '.join(missing)}")
        config.load_kube_config(os.environ["KUBECONFIG"])
        namespace = os.environ.get("DRTUNE_E2E_NAMESPACE", "kubeflow")
        site = cls(namespace, packages, dict(os.environ) | {"KFP_NAMESPACE": namespace})
        site.compile()
        return site

    def compile(self) -> None:
        """Compile the pipelines for images and settings as the environment has them, and leave the committed ones."""
        code = (
            "import sys; from pathlib import Path; from pipelines.local.run import compile_pipeline as compiled\n"
            "from pipelines.monitor import monitor; from pipelines.retrain import retrain\n"
            "from pipelines.tune import tune\n"
            "for made in (tune, monitor, retrain):\n"
            "    Path(sys.argv[1], f'{made.name}.yaml').write_text(compiled(made))"
        )
        settings = {"DRTUNE_PLATFORM": SMALL} | dict(self.environment)
        command = [sys.executable, "-W", "ignore", "-c", code, str(self.packages)]
        subprocess.run(command, cwd=ROOT, env=settings, check=True)

    def call(self, *arguments: str, code: int = 0) -> str:
        """What `drtune-pipeline` writes; it must end with this exit code."""
        done = self.try_to(*arguments)
        assert done.returncode == code, f"{arguments}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def try_to(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.cli.main", *arguments]
        return subprocess.run(command, cwd=ROOT, env=dict(self.environment), capture_output=True, text=True)

    def start(self, story: str, *given: str, package: str = "tune") -> Run:
        """Start a run as the least account that may, with the pipeline as it was compiled here."""
        name = f"e2e {story} {uuid.uuid4().hex[:6]}"
        options = ["-f", str(self.packages / f"{package}.yaml"), "--inline", "-e", "drtune-e2e", "-r", name]
        said = self.call("submit", *options, "--service-account", self.account, *given)
        started = re.search(rf"^run {re.escape(name)}: (\S+)$", said, re.MULTILINE)
        assert started, said
        return Run(self, started[1])

    def runs(self, experiment: str) -> list[Run]:
        """The runs of an experiment; none while the server does not answer."""
        done = self.try_to("status", "-e", experiment)
        return [Run(self, found) for found in re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", done.stdout)]

    def storage(self, uri: str) -> Storage:
        return open_storage(uri, self.environment)

    def empty(self, uri: str) -> None:
        """Remove all that is stored there."""
        storage = self.storage(uri)
        for key in storage.keys():  # noqa: SIM118 it is no dictionary
            storage.delete(key)


@dataclass(frozen=True)
class Run:
    """One run."""

    site: Site
    id: str

    @property
    def state(self) -> str:
        """As the command line calls it: running, succeeded, failed, canceled, ...; "" while nobody answers."""
        first = self.site.try_to("status", self.id).stdout.partition("\n")[0]
        return first.rpartition(": ")[2].partition(",")[0].lower()

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    def ends(self, *, well: bool, minutes: float) -> str:
        """Follow it to its end; the last line."""
        said = self.site.call(
            "status", self.id, "--wait", "--timeout", f"{minutes * MINUTE:.0f}", code=0 if well else 1
        )
        return said.rstrip("\n").rpartition("\n")[2]

    def log(self, step: str) -> str:
        """What a step has written so far; nothing before it is there."""
        done = self.site.try_to("logs", self.id, step)
        return done.stdout if done.returncode == 0 else ""

    def writes(self, step: str, words: str, minutes: float) -> str:
        """The log of a step once these words are in it."""
        return eventually(f"{words!r} in the log of {step}", lambda: self._with(step, words), minutes * MINUTE)

    def _with(self, step: str, words: str) -> str:
        log = self.log(step)
        return log if re.search(words, log) else ""

    def cancel(self) -> None:
        self.site.call("cancel", self.id)

    def pod(self, step: str) -> client.V1Pod | None:
        """The newest pod of a step."""
        core = client.CoreV1Api()
        found = core.list_namespaced_pod(self.site.namespace, label_selector=f"pipeline/runid={self.id}").items
        place = re.compile(rf"\.{re.escape(step)}(\(\d+\))?\.executor\(\d+\)$")
        name = "workflows.argoproj.io/node-name"
        mine = [pod for pod in found if place.search((pod.metadata.annotations or {}).get(name, ""))]
        return max(mine, key=lambda pod: pod.metadata.creation_timestamp) if mine else None

    def ranks(self) -> list[client.V1Pod]:
        """The pods of its training job, of either kind."""
        core, job = client.CoreV1Api(), job_name(self.id)
        labels = (f"{place.pod_label}={job}" for place in PLACES)
        return [
            pod for label in labels for pod in core.list_namespaced_pod(self.site.namespace, label_selector=label).items
        ]

    def jobs(self) -> list[dict[str, Any]]:
        """Its training job, of either kind; none where it is over."""
        custom, found = client.CustomObjectsApi(), []
        for place in PLACES:
            try:
                named = custom.get_namespaced_custom_object(
                    place.group, place.version, self.site.namespace, place.plural, job_name(self.id)
                )
            except client.ApiException as error:
                if error.status != 404:  # of the job, or of a kind that the cluster has not
                    raise
            else:
                found.append(named)
        return found

    def checkpoints(self, storage: str) -> list[str]:
        """The checkpoints that its training has stored."""
        keys = self.site.storage(f"{storage}/{self.id}/train").keys("model/checkpoints")
        return [key for key in keys if key.endswith("manifest.json")] or keys

    def leaves_nothing(self) -> None:
        """See that no job and no pod of a job is there any more."""
        eventually(f"run {self.id} left no job", lambda: not self.jobs(), 3 * MINUTE)
        eventually(f"run {self.id} left no pods of a job", lambda: not self.ranks(), 3 * MINUTE)


def end_all(runs: Sequence[Run]) -> None:
    """End what still runs, all of it before one is waited for, and see that nothing of it is left."""
    for run in runs:
        if not run.is_over:
            with suppress(AssertionError):  # it may end by itself meanwhile
                run.cancel()
    for run in runs:
        eventually(f"run {run.id} is over", partial(getattr, run, "is_over"), 10 * MINUTE)
        run.leaves_nothing()


def delete(pod: client.V1Pod | None, *, grace_seconds: int | None = None) -> None:
    """Delete a pod as `kubectl delete pod` does, or at once."""
    assert pod is not None
    client.CoreV1Api().delete_namespaced_pod(
        pod.metadata.name, pod.metadata.namespace, grace_period_seconds=grace_seconds
    )

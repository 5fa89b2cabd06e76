"""Training on a cluster: ask, have a job do it, follow it to its end, and take what it made."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from components.train.cluster import Cluster, Conflict, Gone, connect, own_namespace
from components.train.environment import POD_NAME, POD_UID, RUN_ID
from components.train.follow import Follower
from components.train.job import Manifest, Owner, job_name, owner_references, place_of, status_of, to_job
from components.train.logs import StepLog
from components.train.request import fetch_model, is_answered, write_request
from components.train.spec import JobSpec
from drtune.config import Config
from drtune.errors import UserError
from drtune.files.storage import Storage, open_storage
from drtune.training.mirror import LAUNCHER

HEARTBEAT_SECONDS = 60.0
FAREWELL_SECONDS = 600.0
"""How long a deleted job is waited for; its pods may save for `grace_seconds` first."""


@dataclass(frozen=True)
class Run:
    """The run that a launcher works for: its id, and the pod that the job must not outlive."""

    id: str
    owner: Owner | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Run:
        """The run as the pipeline states it in the environment.

        Raises:
            UserError: it does not.
        """
        if not environment.get(RUN_ID):
            raise UserError(f"{RUN_ID} is not set: a training on a cluster is named after its Kubeflow run")
        name, uid = environment.get(POD_NAME), environment.get(POD_UID)
        return cls(environment[RUN_ID], Owner(name, uid) if name and uid else None)


def train_on_cluster(config: Config, prompts: Path, spec: JobSpec, out: Path) -> None:
    """Train as `spec` says on the cluster that this process runs in, and write the TunedModel folder `out`.

    Raises:
        UserError: what was given cannot be used here.
        RuntimeError: the training failed, or left something else than its manifest says.
    """
    run = Run.of(os.environ)
    cluster = Cluster(connect(), own_namespace())
    storage = open_storage(f"{spec.storage}/{run.id}/train")
    cancelled = threading.Event()
    with ending_by_sigterm(cancelled):
        Launch(cluster, storage, spec, run, StepLog(sys.stdout.buffer), cancelled).train(config, prompts, out)


def delete_leftover(spec: JobSpec) -> str | None:
    """Delete the job of the run that this process belongs to; its name, or None when there is no job any more."""
    cluster, name = Cluster(connect(), own_namespace()), job_name(Run.of(os.environ).id)
    try:
        cluster.delete(cluster.jobs(place_of(spec), name))
    except Gone:
        return None
    finally:
        cluster.close()
    return name


@contextmanager
def ending_by_sigterm(cancelled: threading.Event) -> Iterator[None]:
    """Within, SIGTERM, by which a run is cancelled, raises SystemExit, once: what follows it is not interrupted.

    It also sets the event, for whoever waits long: an exception that comes while a finalizer runs is lost.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cancelled.set()
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Launch:
    """One try of a launcher; several tries of one run follow the same job."""

    def __init__(
        self, cluster: Cluster, storage: Storage, spec: JobSpec, run: Run, log: StepLog, cancelled: threading.Event
    ) -> None:
        self.cluster, self.storage, self.spec, self.run, self.log = cluster, storage, spec, run, log
        self.cancelled = cancelled
        self.name = job_name(run.id)
        self.path = cluster.jobs(place_of(spec), self.name)

    def train(self, config: Config, prompts: Path, out: Path) -> None:
        """Ask, follow, and fetch; whatever happens, no job is left behind.

        Raises:
            SystemExit: it was cancelled.
        """
        refuse_uneven(config, self.spec)
        if is_answered(self.storage, config, prompts):
            self.log.say(f"the model is at {self.storage.uri} already: an earlier try had it made")
        else:
            write_request(self.storage, config, prompts)
            with self._leaving_nothing(), self._heard_of():
                Follower(self.cluster, self.spec, self._create_or_adopt(), self.log, self.cancelled).run()
        fetch_model(self.storage, out)

    def _create_or_adopt(self) -> Manifest:
        """The job of this run: a new one, or that of an earlier try of the launcher, which is then ours.

        A job that failed while nobody followed it is replaced: else every retry would fail by it anew.
        """
        jobs = self.cluster.jobs(place_of(self.spec))
        for _ in range(3):  # a job that an earlier try has deleted may still be on its way out
            try:
                job = self.cluster.create(jobs, to_job(self.spec, self.name, self.storage.uri, self.run.owner))
            except Conflict:
                pass
            except Gone as error:
                kind = place_of(self.spec).kind
                raise UserError(
                    f"cluster {self.cluster.host}: has no {kind} ({error}); install its operator, or change `backend`"
                ) from None
            else:
                self.log.say(f"training job {self.name}: created, for what is asked at {self.storage.uri}")
                return job
            try:
                job = self.cluster.read(self.path)
                if "deletionTimestamp" in job["metadata"]:
                    self._wait_until_gone()
                    continue
                if (status := status_of(job)).phase == "failed":
                    self.log.say(
                        f"training job {self.name}: failed while no launcher followed it "
                        f"({status.message or 'no reason given'}); it is deleted, and a new one goes on from its "
                        f"newest checkpoint"
                    )
                    self.cluster.delete(self.path)
                    self._wait_until_gone()
                    continue
                if self.run.owner:  # or it would go with the pod of the earlier try
                    owner = {"metadata": {"ownerReferences": owner_references(self.run.owner)}}
                    job = self.cluster.merge(self.path, owner)
            except Gone:
                continue
            self.log.say(f"training job {self.name}: adopted from an earlier try")
            return job
        raise RuntimeError(f"training job {self.name}: deleted by somebody each time it was made")

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        """Delete the job at the end, whatever the end is."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            self.log.say(f"training job {self.name}: the step is cancelled, the job is deleted")
            raise
        finally:
            # By name: the answer to its creation may have been lost.
            with suppress(Gone):
                self.cluster.delete(self.path)
                self._wait_until_gone()
            self.cluster.close()

    def _wait_until_gone(self) -> None:
        give_up = time.monotonic() + FAREWELL_SECONDS
        pause = 0.2
        while time.monotonic() < give_up:
            try:
                self.cluster.read(self.path)
            except Gone:
                return
            time.sleep(pause)
            pause = min(2 * pause, 15.0)
        self.log.say(f"training job {self.name}: still being deleted after {FAREWELL_SECONDS:.0f} s")

    @contextmanager
    def _heard_of(self) -> Iterator[None]:
        """Let the nodes know that somebody waits for them."""
        ends = threading.Event()

        def beat() -> None:
            while True:
                try:
                    self.storage.write(LAUNCHER, str(time.time()).encode())
                except (UserError, OSError) as error:
                    self.log.say(f"cannot tell the nodes that the launcher is here: {error}")
                if ends.wait(HEARTBEAT_SECONDS):
                    return

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()
        try:
            yield
        finally:
            ends.set()


def refuse_uneven(config: Config, spec: JobSpec) -> None:
    """Raise UserError for a batch that some number of processes of the job cannot share."""
    for processes in spec.processes:
        if config.batch_size % processes:
            raise UserError(
                f"batch_size={config.batch_size}: cannot be shared evenly by the {processes} processes of "
                f"{processes // spec.processes_per_node} nodes; give a multiple, or another number of nodes"
            )

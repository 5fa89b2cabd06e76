"""Training on a cluster: ask, have a job do it, follow it to its end, and take what it made."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from components.train.cluster import Cluster, ConflictError, NotFoundError, UnknownFieldError, connect, own_namespace
from components.train.environment import POD_NAME, RUN_ID
from components.train.follow import Follower
from components.train.job import PLACES, Manifest, is_suspended, job_name, place_of, status_of, to_job
from components.train.logs import StepLog
from components.train.request import fetch_model, is_answered, write_request
from components.train.spec import JobSpec, refuse_uneven, spec_for
from drtune.config import Config
from drtune.errors import UserError
from drtune.files.storage import Storage, open_storage
from drtune.training.mirror import LAUNCHER

HEARTBEAT_SECONDS = 60.0
FAREWELL_SECONDS = 300.0
"""How long the pods of a deleted job are waited for, beyond the `grace_seconds` for which they may save."""


@dataclass(frozen=True)
class Run:
    """The run that a launcher works for: its id, and the pod of the launcher, if it has one."""

    id: str
    pod: str | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Run:
        """The run as the pipeline states it in the environment.

        Raises:
            UserError: it does not.
        """
        if not environment.get(RUN_ID):
            raise UserError(f"{RUN_ID} is not set: a training on a cluster is named after its Kubeflow run")
        return cls(environment[RUN_ID], environment.get(POD_NAME) or None)


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


def end_job(run_id: str, cluster: Cluster | None = None) -> str | None:
    """Delete the job of a run, of whatever kind; its name, or None when there is none (any more).

    This is for what ends a run. Without `cluster` it is the one that this process runs in.

    Raises:
        UserError: there is no cluster, or it does not allow it.
    """
    cluster, name = cluster or Cluster(connect(), own_namespace()), job_name(run_id)
    try:
        for place in filter(cluster.has, PLACES):
            with suppress(NotFoundError):
                cluster.delete(cluster.jobs(place, name))
                return name
    finally:
        cluster.close()
    return None


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

    @property
    def path(self) -> str:
        """Where the job stands in the API."""
        return self.cluster.jobs(place_of(self.spec), self.name)

    def train(self, config: Config, prompts: Path, out: Path) -> None:
        """Ask, follow, and fetch.

        The job is deleted at every end but one: when SIGTERM stops the launcher, since a drained machine or a full disk
        does that too, the next try adopts it; the run's last step deletes what is left (`end_job`).

        Raises:
            SystemExit: it was stopped.
        """
        refuse_uneven(config, self.spec)
        cluster_sha256 = self.spec.sha256()  # as it was given, before a kind of job is chosen
        if is_answered(self.storage, config, prompts):
            self.log.say(f"the model is at {self.storage.uri} already: an earlier try had it made")
        else:
            self.spec = of_a_kind_that_is_there(self.cluster, self.spec)
            write_request(self.storage, config, prompts)
            with self._leaving_nothing(), self._heard_of():
                Follower(self.cluster, self.spec, self._create_or_adopt(), self.log, self.cancelled).run()
        fetch_model(self.storage, out, cluster_sha256)

    def _create_or_adopt(self) -> Manifest:
        """The job of this run: a new one, or that of an earlier try of the launcher, which is then ours.

        A job that failed while nobody followed it is replaced: else every retry would fail by it anew.
        """
        for _ in range(3):  # a job that was deleted may still be on its way out
            try:  # before it is made: where a quota has room for one, a second is refused before it is a conflict
                job = self.cluster.read(self.path)
            except NotFoundError:
                self._wait_until_gone()  # what an earlier try deleted has pods that save
                with suppress(ConflictError):
                    return self._create()
                continue
            if "deletionTimestamp" in job["metadata"]:
                self._wait_until_gone()
            elif (status := status_of(job)).phase == "failed":
                self.log.say(
                    f"training job {self.name}: failed while no launcher followed it "
                    f"({status.message or 'no reason given'}); it is deleted, and a new one goes on from its "
                    f"newest checkpoint"
                )
                self._delete()
            else:
                self.log.say(f"training job {self.name}: adopted from an earlier try")
                return job
        raise RuntimeError(f"training job {self.name}: deleted by somebody each time it was made")

    def _create(self) -> Manifest:
        """A new job, which is to live no longer than the run. Raises ConflictError."""
        job = create_job(self.cluster, self.spec, self.name, self.storage.uri, self._owners())
        self.log.say(f"training job {self.name}: created, for what is asked at {self.storage.uri}")
        return job

    def _owners(self) -> list[Manifest]:
        """What owns the launcher's pod, the run's workflow; not the pod itself, which may go while the job goes on."""
        if not self.run.pod:
            return []
        selected = {"fieldSelector": f"metadata.name={self.run.pod}"}
        pods = self.cluster.read(self.cluster.core("pods"), selected)["items"]
        owners = [owner for pod in pods for owner in pod["metadata"].get("ownerReferences", [])]
        return [{key: owner[key] for key in ("apiVersion", "kind", "name", "uid")} for owner in owners]

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        """Delete the job at the end, unless somebody else is to follow it."""
        try:
            yield
        except SystemExit:
            self.log.say(
                f"training job {self.name}: this step is stopped, and the job goes on: the step's next try adopts it, "
                f"the end of the run deletes it, and alone its nodes end after alone_seconds={self.spec.alone_seconds}"
            )
            raise
        except BaseException:
            self._delete()
            raise
        else:
            self._delete()
        finally:
            self.cluster.close()

    def _delete(self) -> None:
        with suppress(NotFoundError):  # by name: the answer to its creation may have been lost
            self.cluster.delete(self.path)
        self._wait_until_gone()

    def _wait_until_gone(self) -> None:
        seconds = self.spec.grace_seconds + FAREWELL_SECONDS
        give_up = time.monotonic() + seconds
        pause = 0.2
        while self._is_left():
            if time.monotonic() > give_up:
                self.log.say(f"training job {self.name}: still being deleted after {seconds:.0f} s")
                return
            time.sleep(pause)
            pause = min(2 * pause, 15.0)

    def _is_left(self) -> bool:
        """Whether the job is there, or a pod of it, which stays until it has saved."""
        with suppress(NotFoundError):
            self.cluster.read(self.path)
            return True
        pods = self.cluster.read(self.cluster.core("pods"), place_of(self.spec).pods_of(self.name))
        return bool(pods["items"])

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


def of_a_kind_that_is_there(cluster: Cluster, spec: JobSpec) -> JobSpec:
    """What is asked for, of the kind of job that the cluster has.

    Raises:
        UserError: it has none, or such a job cannot be asked for it.
    """
    if spec.backend != "auto":
        return spec
    for place in PLACES:
        if cluster.has(place):
            return spec_for(place.kind.lower(), spec)
    wanted = " nor ".join(f"{place.kind} ({place.api})" for place in PLACES)
    raise UserError(f"cluster {cluster.host}: has neither {wanted}; install Kubeflow's training operator or Trainer")


def create_job(
    cluster: Cluster, spec: JobSpec, name: str, uri: str, owners: Sequence[Manifest] = (), *, dry_run: bool = False
) -> Manifest:
    """Create the job that trains what was asked at `uri`; with `dry_run` only see whether the cluster would take it.

    Raises:
        ConflictError: there is one of that name.
        UserError: the cluster does not know such a job, or a field of it; it refuses it, or its queue ignores it.
    """
    place, queue = place_of(spec), spec.queue
    try:
        job = cluster.create(cluster.jobs(place), to_job(spec, name, uri, owners), dry_run=dry_run)
    except NotFoundError as error:
        raise UserError(
            f"cluster {cluster.host}: has no {place.kind} ({error}); install its operator, or change `backend`"
        ) from None
    except UnknownFieldError as error:
        raise UserError(
            f"cluster {cluster.host}: its {place.kind} has no field {error}; it needs {place.needed}: update "
            "it, or change `backend`"
        ) from None
    if queue and not is_suspended(job):  # as Kueue does with each job of a queue before it is stored
        raise UserError(
            f"queue={queue}: Kueue ignores the {place.kind} {name}, which would run outside of its quota; add "
            f"{place.group}/{place.kind.lower()} to `integrations.frameworks` of Kueue's configuration (from 0.19 "
            "on PyTorchJobs are not there by default), set backend=trainjob, or leave `queue` out"
        )
    return job

"""The processes of a run: which share of the work is this one's, and how gradients and numbers are brought together."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # public, but not to mypy
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from drtune.errors import InterruptionError, UserError

PATIENCE = timedelta(minutes=10)
"""A process that waits longer for another takes it for dead: well above a checkpoint, which one writes alone."""

LOOK_SECONDS = 0.2
"""How often is looked whether the first process is through with what it does alone."""

LEAD_SECONDS = 5
"""What the others leave to the process that failed first, to tell why and end; then torchrun ends them all."""

Value = TypeVar("Value")


class Processes:
    """The processes that torchrun started, on one machine or many; a single one without torchrun.

    Each takes the CUDA device of its LOCAL_RANK and speaks nccl, or runs on the CPU and speaks gloo.
    """

    def __init__(self) -> None:
        self.board: Store | None
        self._store: Store | None
        try:
            self.board, self._store = _join() if "WORLD_SIZE" in os.environ else (None, None)
        except DistError as error:
            reason = f"the other processes of the run cannot be reached: {error}"
            raise InterruptionError(reason, signal.SIGTERM) from None
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.device: torch.device = self.accelerator.device
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.is_main: bool = self.accelerator.is_main_process
        self.is_first_here: bool = self.accelerator.is_local_main_process
        """Of the processes on this machine."""
        self._turns = 0

    def share(self, batch_size: int) -> range:
        """The places in a batch that this process fills.

        Raises:
            UserError: the batch cannot be shared out evenly.
        """
        if batch_size % self.count:
            raise UserError(
                f"batch_size={batch_size}: cannot be shared evenly by {self.count} processes; "
                f"give a multiple of {self.count}"
            )
        share = batch_size // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def share_here(self, things: Sequence[Value]) -> Sequence[Value]:
        """Those that this process takes, when the processes of each machine share them out."""
        return things[self.accelerator.local_process_index :: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))]

    def exchange(self, value: Value) -> list[Value]:
        """What each process gives, by rank. It is small."""
        values: list[Value] = gather_object([value])
        return values

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def wait_for_main(self) -> None:
        """Until the first process is here, however long it works alone: PATIENCE with it ends in collectives alone.

        If it dies, its store goes with it, which ends the wait.
        """
        if self._store is None:
            return
        self._turns += 1
        while self._store.add("drtune/turns", int(self.is_main)) < self._turns:
            time.sleep(LOOK_SECONDS)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        mean: Tensor = self.accelerator.reduce(tensor, "mean")
        return mean

    def average_gradients(self, weights: Iterable[Tensor]) -> None:
        """One all-reduce over all gradients laid end to end; those of sharded weights are means already."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.count == 1 or any(isinstance(gradient, DTensor) for gradient in gradients):
            return
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @contextmanager
    def failing_as_one(self) -> Iterator[None]:
        """The process that fails first tells why; the others, which fail of the same or for want of it, say nothing.

        They end as if by SIGTERM, and so do those that lost one that cannot tell any more: nothing is wrong with them.
        """
        try:
            yield
        except InterruptionError as interrupted:  # of all at once, and no failure: one tells it
            if self.is_main:
                raise
            raise SystemExit(interrupted.exit_code) from None
        except Exception as error:
            if self.board is None:
                raise
            if self._failed_before():
                with suppress(InterruptionError):  # by torchrun's SIGTERM, of which there is nothing to tell
                    time.sleep(LEAD_SECONDS)
            elif _is_loss(error):
                print(f"another process of the run went away; go on with all of them: {error}", file=sys.stderr)
            else:
                raise
            raise SystemExit(128 + signal.SIGTERM) from None

    def _failed_before(self) -> bool:
        """Whether another process failed already; one that took the common board with it did."""
        assert self.board is not None
        try:
            return self.board.add("failures", 1) > 1
        except DistError:
            return True


def _is_loss(error: Exception) -> bool:
    """Whether an error means that another process went away; gloo has no type of error for it."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


@cache
def _join() -> tuple[Store, Store]:
    """Form the group of the processes that were started together; returns a store that outlives them, and rank 0's own.

    torchrun has one store for all its rounds of processes (pytorch issue 135712): in a later round they would find the
    addresses of those that died. So rank 0 opens a store for each round and leaves its port in the one of torchrun;
    whoever reads the port of an earlier round there cannot connect to it, and reads again.
    """
    lasting, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        lasting.set("drtune/port", str(store.port))
    else:
        store = _connect(host, lasting)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    return PrefixStore(f"drtune/{store.port}", lasting), store


def _connect(host: str, lasting: Store) -> TCPStore:
    give_up = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            return TCPStore(host, int(lasting.get("drtune/port")), is_master=False, timeout=timedelta(seconds=2))
        except torch.distributed.DistNetworkError:
            if time.monotonic() > give_up:
                raise

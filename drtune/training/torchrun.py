"""Processes of one machine, started by torchrun from within this one."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from drtune.config import Config, load_config
from drtune.contracts import CONFIG
from drtune.errors import InterruptionError
from drtune.models.miniature.cores import cores, is_small, take_one_thread


class ProcessesFailedError(Exception):
    """A process ended with an exit code other than 0."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"rank {rank} ended with exit code {exit_code}")
        self.exit_code = exit_code
        """As shells count: 137 for a process that SIGKILL ended. torchrun's own would always be 1."""


def settled(config: Config, earlier: Path | None) -> Config:
    """The configuration with a number of processes: its own, that of the run that is resumed, or one for this machine.

    Args:
        config: The run's.
        earlier: Folder of the run that it resumes, if it does; there may be none.
    """
    small = is_small(config.base_model, config.trained_on)
    if small:
        take_one_thread()  # before they start, and so in all of them
    if config.processes is not None:
        return config
    if earlier and (earlier / CONFIG).is_file():
        count = load_config(earlier / CONFIG).process_count
    elif small and config.weights == "lora":
        count = max(count for count in range(1, cores() + 1) if config.batch_size % count == 0)
    else:
        count = 1
    return config.model_copy(update={"processes": count})


def run_workers(count: int, arguments: Sequence[str], *, options: Sequence[str]) -> None:
    """Run `python -m drtune.training.worker` with `arguments` in `count` processes of this machine.

    `options` are torchrun's; others of its options may stand in the environment, such as PET_NNODES.

    Raises:
        ProcessesFailedError: a process failed, and has told why.
        InterruptionError: a signal ended this process, which has passed it on; or the other machines cannot be reached.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    # The process that fails tells why itself, once.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # The cores are shared out; without this torchrun gives each process one thread, and says so in four lines.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    try:
        run(parse_args([*options, f"--nproc-per-node={count}", "-m", "drtune.training.worker", *arguments]))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        raise ProcessesFailedError(rank, code) from None
    except SignalException as interrupted:
        name = signal.Signals(interrupted.sigval).name
        raise InterruptionError(f"stopped by {name}, and so are its processes", interrupted.sigval) from None
    except (RendezvousError, DistError) as error:
        raise InterruptionError(f"the other machines cannot be reached: {error}", signal.SIGTERM) from None

"""How the miniature uses a machine without a GPU: processes of one thread each, as many as there are cores.

Its layers are small: two threads of a process wait for each other about as long as they compute, and beside other work
up to a hundred times as long; processes of one thread just get their share (docs/performance.md). What is large
(another base, a reward with a large network) is left to one process with all threads: each would need it in memory.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from drtune.config import PUBLISHED

LARGE = (*PUBLISHED, "dinov2", "dreamsim")
"""Rewards and spaces of features with a large network."""


def is_small(base_model: str, judges: Iterable[str] = ()) -> bool:
    """Whether all that computes, a base and those that judge its pictures, is small, and no GPU does it."""
    if base_model != "miniature" or not set(LARGE).isdisjoint(judges):
        return False
    import torch

    return not torch.cuda.is_available()


def take_one_thread() -> None:
    """Compute in one thread here and in processes that are started from here, unless OMP_NUM_THREADS says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: those that it is bound to, and no more than its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(bound, math.floor(min(_quota(groups), bound))))


def _quota(groups: Path) -> float:
    """Seconds of computing a second, by control groups of version 2 or 1; infinite without a limit."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):  # the other version, or "max"
            quota, period = (int(part) for name in names for part in (groups / name).read_text().split())
            if quota > 0:
                return quota / period
    return math.inf

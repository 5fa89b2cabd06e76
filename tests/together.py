"""Functions run by several processes at once, as torchrun would start them, without torchrun's slow start."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# The processes are forked from a server that has imported the trainer and has done nothing else.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["drtune.training.trainer"])


def together(
    count: int, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> list[Result]:
    """What `function` returns in each of `count` processes that form one group, by rank."""
    with ProcessPoolExecutor(count, mp_context=CONTEXT) as pool:
        return together_in([pool] * count, function, *args, **kwargs)


def together_in(
    pools: Sequence[Executor], function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> list[Result]:
    """Likewise, where each rank has a pool from which it takes a process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    calls = [
        pool.submit(_as_rank, rank, len(pools), port, function, *args, **kwargs) for rank, pool in enumerate(pools)
    ]
    return [call.result() for call in calls]


def _as_rank(
    rank: int,
    count: int,
    port: int,
    function: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {name: str(value) for name, value in places.items()}
    return function(*args, **kwargs)

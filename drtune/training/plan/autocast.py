"""What autocast does on a GPU, done on a CPU, so that a plan made anywhere tells the memory of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.library import _scoped_library
from torch.utils._pytree import tree_map

IN_FP32 = (
    *("group_norm", "layer_norm", "rms_norm", "softmax.int"),
    *("exp", "log", "pow.Tensor_Scalar", "reciprocal", "rsqrt", "sum", "sum.dim_IntList", "upsample_nearest2d"),
)
"""Of what CUDA's autocast computes in fp32 and the CPU's does not, the operations that diffusion networks have."""


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Within, autocast on the CPU computes norms and the like in fp32, as it does on a GPU."""
    with _scoped_library("aten", "IMPL") as library:
        for name in IN_FP32:
            library.impl(name, _in_fp32(name), "AutocastCPU")
        yield


def _in_fp32(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_float, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return operation(*args, **kwargs)

    return run


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

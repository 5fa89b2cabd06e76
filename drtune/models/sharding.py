"""Sharded weights (FSDP): each process keeps an equal part of every tensor, and all of a block only while it computes.

This is torch's own `fully_shard`, which shards on any device; Accelerate's FSDP plugin is plain data parallel on a CPU.
"""

from __future__ import annotations

import torch
from diffusers import ModelMixin
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(network: ModelMixin, device: torch.device) -> None:
    """Share out the network's weights over all processes, one group for each block and one for what is left.

    From now on every forward and backward is a joint one, and a backward leaves the mean gradient of all processes.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks = [module for module in network.modules() if type(module).__name__ in network._no_split_modules]
    # Blocks stand in blocks: the inner ones come first, and the outer ones take what these leave.
    for module in (*reversed(blocks), network):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: where it is sharded, every process calls this at the same time and gets it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

"""What sharded weights (drtune/models/sharding.py) hold beyond their share: the groups that are whole for a moment."""

from __future__ import annotations

from diffusers import ModelMixin
from torch import nn

from drtune.training.plan.meter import bytes_of


def gathered_bytes(network: ModelMixin) -> int:
    """The most that is whole at once: the groups around one innermost block, and the largest one, fetched ahead."""
    blocks = {module for module in network.modules() if type(module).__name__ in network._no_split_modules}

    def inside(module: nn.Module) -> list[nn.Module]:
        """The blocks in a module that are not in one of its blocks."""
        return [block for child in module.children() for block in ([child] if child in blocks else inside(child))]

    def group(module: nn.Module) -> int:
        return bytes_of(module.parameters()) - sum(bytes_of(block.parameters()) for block in inside(module))

    def deepest(module: nn.Module) -> int:
        return group(module) + max(map(deepest, inside(module)), default=0)

    return deepest(network) + max(map(group, blocks), default=0)

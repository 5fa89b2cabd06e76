"""Frozen weights in four bits: NF4 of bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

from __future__ import annotations

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from drtune.errors import UserError

KIND = "nf4"


class QuantizedLinear(nn.Linear):
    """A frozen linear layer, of 4 bits a weight and a scale for each 64 of them; made whole only while it computes.

    It is the linear layer of its rounded weights, forwards and backwards: the gradient is exact for what it computes.
    """

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        nn.Module.__init__(self)
        from bitsandbytes.functional import quantize_4bit

        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute_dtype = linear.weight.dtype
        """Of the whole weights; diffusers asks for it under this name."""
        codes, state = quantize_4bit(linear.weight.detach().to(device), quant_type=KIND)
        self.block = state.blocksize
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scales", state.absmax)
        self.register_buffer("levels", state.code)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`, under autocast too."""
        from bitsandbytes import matmul_4bit
        from bitsandbytes.functional import QuantState

        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        state = QuantState(
            absmax=self.scales,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.levels,
            blocksize=self.block,
            quant_type=KIND,
            dtype=self.compute_dtype,
        )
        output: Tensor = matmul_4bit(x, self.weight, state, bias=self.bias)
        return output


def quantize(network: ModelMixin, device: torch.device) -> None:
    """Put the frozen linear layers of the network's blocks in four bits, on the device; what trains stays as it is.

    Layers outside of the blocks, which embed and unembed, keep their precision.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401  # an extra
    except ImportError:
        raise UserError(
            f"compute.quantization={KIND}: bitsandbytes is not installed: pip install bitsandbytes"
        ) from None
    blocks = [module for module in network.modules() if type(module).__name__ in network._no_split_modules]
    for block in blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and not child.weight.requires_grad:
                    setattr(parent, name, QuantizedLinear(child, device))

"""Frozen weights in fewer bits: four by bitsandbytes' NF4 (arXiv 2305.14314), or eight, as integers or floats."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import linear

EIGHT_BITS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""Integers, and floats of 4 bits of exponent and 3 of mantissa (Micikevicius et al. 2022, arXiv 2209.05433)."""


class QuantizedLinear(nn.Linear):
    """A frozen linear layer of rounded weights, which are made whole only while it computes.

    It is the linear layer of its rounded weights, forwards and backwards: the gradient is exact for what it computes.
    """

    def __init__(self, like: nn.Linear, codes: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.compute_dtype = like.weight.dtype
        """Of the whole weights; diffusers asks for it under this name."""
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = like.bias

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`, under autocast too."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.times(x)

    def times(self, x: Tensor) -> Tensor:
        """The weights times x, and the bias; nothing whole is kept for the backward pass."""
        raise NotImplementedError


class FourBitLinear(QuantizedLinear):
    """Of 4 bits a weight and a scale for each 64 of them: NF4 (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

    def __init__(self, like: nn.Linear, device: torch.device) -> None:
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(like.weight.detach().to(device), quant_type="nf4")
        super().__init__(like, codes)
        self.block = state.blocksize
        self.register_buffer("scales", state.absmax)
        self.register_buffer("levels", state.code)

    def times(self, x: Tensor) -> Tensor:
        """As `QuantizedLinear`."""
        from bitsandbytes import matmul_4bit
        from bitsandbytes.functional import QuantState

        state = QuantState(
            absmax=self.scales,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.levels,
            blocksize=self.block,
            quant_type="nf4",
            dtype=self.compute_dtype,
        )
        output: Tensor = matmul_4bit(x, self.weight, state, bias=self.bias)
        return output


class EightBitLinear(QuantizedLinear):
    """Of 8 bits a weight and a scale for each row, by which its largest weight is the largest number there is."""

    def __init__(self, like: nn.Linear, device: torch.device, dtype: torch.dtype) -> None:
        weight = like.weight.detach().to(device, torch.float32)
        most = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
        scales = (weight.abs().amax(1, keepdim=True) / most).clamp(min=torch.finfo(torch.float32).tiny)
        codes = weight / scales
        super().__init__(like, (codes if dtype.is_floating_point else codes.round()).to(dtype))
        self.register_buffer("scales", scales)

    def times(self, x: Tensor) -> Tensor:
        """As `QuantizedLinear`."""
        output: Tensor = _MadeWhole.apply(x, self.weight, self.scales, self.bias)  # type: ignore[no-untyped-call]
        return output


class _MadeWhole(torch.autograd.Function):
    """A linear layer that makes its weights whole again in the backward pass.

    Those of torch and torchao would keep them whole for it, and LLM.int8 rounds what goes through it, too, of which its
    gradient knows nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return linear(x, dequantized(codes, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scales = ctx.saved_tensors
        return gradient @ dequantized(codes, scales, gradient.dtype), None, None, None


def dequantized(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The rounded weights (out, in) of 8 bits."""
    return codes.to(dtype) * scales.to(dtype)


def quantize(network: ModelMixin, device: torch.device, kind: str) -> None:
    """Put the frozen linear layers of the network's blocks in fewer bits, on the device; what trains stays as it is.

    Layers outside of the blocks, which embed and unembed, keep their precision. `kind` is `compute.quantization`.
    """
    blocks = [module for module in network.modules() if type(module).__name__ in network._no_split_modules]
    for block in blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and not child.weight.requires_grad:
                    setattr(parent, name, _quantized(child, device, kind))


def _quantized(child: nn.Linear, device: torch.device, kind: str) -> QuantizedLinear:
    if kind in EIGHT_BITS:
        return EightBitLinear(child, device, EIGHT_BITS[kind])
    return FourBitLinear(child, device)

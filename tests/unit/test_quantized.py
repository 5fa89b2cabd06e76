"""A network in fewer bits is the network of its rounded weights: its values, and the gradients of what trains on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drtune.config import ComputeSection, MethodConfig, OptimizerConfig, load_config
from drtune.errors import UserError
from drtune.methods.plans import draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.models.loading import load_base
from drtune.models.quantized import EightBitLinear, FourBitLinear, QuantizedLinear, dequantized, quantize
from drtune.models.sdxl import StableDiffusionXL
from drtune.models.tensors import optimizer_tensors
from drtune.training.checks import check_start
from drtune.training.optimization import make_optimizer
from drtune.training.plan.estimate import estimate
from drtune.training.plan.meter import SavedBytes, bytes_of
from tests.tiny import ddim, denoiser_of, tunable_base
from tests.unit.test_sweep import NOISE, rewards_of

bitsandbytes = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
KINDS = {"nf4": 4, "int8": 8, "fp8": 8}
"""With their bits."""


def rounded(layer: QuantizedLinear) -> Tensor:
    """The rounded weights (out, in)."""
    if isinstance(layer, EightBitLinear):
        return dequantized(layer.weight, layer.scales, torch.float32)
    assert isinstance(layer, FourBitLinear)
    state = bitsandbytes.functional.QuantState(
        layer.scales,
        torch.Size((layer.out_features, layer.in_features)),
        layer.levels,
        layer.block,
        "nf4",
        torch.float32,
    )
    return bitsandbytes.functional.dequantize_4bit(layer.weight, state)


def rounded_twin(base: StableDiffusionXL) -> int:
    """Put plain layers of the rounded weights in the place of quantised ones; returns how many there were."""
    count = 0
    for parent in list(base.network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                plain.weight = nn.Parameter(rounded(child), requires_grad=False)
                plain.bias = child.bias
                setattr(parent, name, plain)
                count += 1
    return count


def gradient(base: StableDiffusionXL, weights: list[Tensor]) -> Tensor:
    for weight in weights:
        weight.grad = None
    method = MethodConfig(name="full")
    task = Task(denoiser_of(base), ddim(4), rewards_of, lambda *_: NOISE, ComputeSection())
    supervise(task, method, draw_plan(method, 4, torch.Generator()))
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


@pytest.mark.parametrize(("kind", "least"), [("nf4", 1e-2), ("int8", 1e-3), ("fp8", 5e-3)])
def test_gradients_on_quantised_layers_are_those_on_plain_layers_of_the_rounded_weights(
    kind: str, least: float
) -> None:
    base, weights = tunable_base(torch.float32)
    exact = gradient(base, weights)
    quantize(base.network, CPU, kind)
    assert all(weight.requires_grad for weight in weights)
    ours = gradient(base, weights)
    assert rounded_twin(base) > 10
    theirs = gradient(base, weights)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert (exact - theirs).norm() > least * theirs.norm()  # rounding itself is no small thing


class Blocks(nn.Module):
    """A network of one block."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"linear": linear})
        self._no_split_modules = ["ModuleDict"]


def quantized(linear: nn.Linear, kind: str) -> QuantizedLinear:
    network: Any = Blocks(linear)
    quantize(network, CPU, kind)
    layer: QuantizedLinear = network.block["linear"]
    return layer


@pytest.mark.parametrize(("kind", "gaussian", "heavy"), [("nf4", 0.1, 0.15), ("int8", 0.01, 0.08), ("fp8", 0.03, 0.03)])
def test_weights_are_rounded_as_far_as_the_documentation_says(kind: str, gaussian: float, heavy: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for degrees, most in ((None, gaussian), (3, heavy)):
        weight = torch.randn(64, 1024, generator=generator)
        if degrees:  # Student's t: some weights are far beyond all others
            weight /= torch.randn(64, 1024, degrees, generator=generator).square().mean(2).sqrt()
        linear = nn.Linear(1024, 64, bias=False).requires_grad_(False)
        linear.weight.copy_(weight)
        assert most / 4 < (rounded(quantized(linear, kind)) - weight).norm() / weight.norm() < most


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_nothing_stays_nothing(kind: str) -> None:
    linear = nn.Linear(64, 2).requires_grad_(False)
    linear.weight[0] = 0
    layer = quantized(linear, kind)
    assert torch.equal(layer(torch.ones(1, 64))[0, 0], layer.bias[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_layer_saves_no_whole_weights_for_the_backward_pass(dtype: torch.dtype, kind: str) -> None:
    plain = nn.Linear(256, 256).to(dtype).requires_grad_(False)
    layer = quantized(plain, kind)
    standing = [*layer.parameters(), *layer.buffers()]
    assert bytes_of(standing) < 1.2 * KINDS[kind] / 8 / dtype.itemsize * bytes_of(plain.parameters())
    saved = SavedBytes(standing)
    with saved, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        seen = torch.randn(4, 256, requires_grad=True)
        layer(seen).sum().backward()
    assert saved.peak < 256 * 256 * dtype.itemsize / 10
    expected = rounded(layer).to(dtype).float().sum(0)
    torch.testing.assert_close(
        seen.grad, expected.expand(4, 256), rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=0.1
    )


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_plan_counts_few_bits_to_the_byte(kind: str) -> None:
    config = load_config(None, [f"compute.quantization={kind}", "batch_size=2", "sampler.steps=6"])
    base = load_base("miniature")
    plain = bytes_of([*base.network.parameters(), *base.network.buffers()])
    quantize(base.network, CPU, kind)
    frozen = estimate(config).memory.weights["network, frozen"]
    assert frozen == bytes_of([*base.network.parameters(), *base.network.buffers()]) < 0.7 * plain


def test_what_does_not_combine_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^compute\.quantization=nf4 is for frozen weights, and with weights=full none are"
    ):
        load_config(None, ["compute.quantization=nf4", "weights=full"])
    check_start(load_config(None, ["compute.quantization=nf4"]))


def test_moments_of_eight_bits_move_the_weights_as_those_of_32_do_and_are_planned_to_the_byte() -> None:
    config = OptimizerConfig(learning_rate=1e-2, eight_bit=True)
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 128, 64, generator=generator)
    weights = {bits: nn.Parameter(start.clone()) for bits in (8, 32)}
    for bits, weight in weights.items():
        optimizer = make_optimizer({"w": weight}, config.model_copy(update={"eight_bit": bits == 8}))
        for _ in range(20):
            optimizer.zero_grad()
            (weight - target).square().mean().backward()
            optimizer.step()
        if bits == 8:
            kept = optimizer_tensors(optimizer)
    moved = weights[32] - start
    assert (weights[8] - weights[32]).norm() < 0.05 * moved.norm()
    assert {name for name, tensor in kept.items() if tensor.dtype == torch.uint8} == {"0.state1", "0.state2"}

    tuned = ["weights=full", "batch_size=2", "sampler.steps=6", "evaluation.batch_size=1"]
    planned = estimate(load_config(None, [*tuned, "optimizer.eight_bit=true"])).memory.weights
    network = load_base("miniature").network
    optimizer = make_optimizer(dict(network.requires_grad_().named_parameters()), config)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert planned["optimizer"] == bytes_of(optimizer_tensors(optimizer).values()) < 0.6 * planned["trained"]

"""Loss scaling: fp16 has no numbers below 6e-8, and at a single latent the gradient of a loss is often smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor

LossScale = Callable[[Tensor], AbstractContextManager[float]]
"""`loss_scale(gradient_BCHW)`: a scale for all that is sent backward; within, send scale * gradient in its place."""


def unscaled(_gradient: Tensor) -> AbstractContextManager[float]:
    """The scale 1, for arithmetic with the range of fp32."""
    return nullcontext(1.0)


@contextmanager
def scaled(gradient: Tensor, *, weights: Collection[Tensor], mean: Callable[[Tensor], Tensor]) -> Iterator[float]:
    """A scale, the same in all processes, which take the `mean`, by which the largest number becomes about 1.

    The weights' `.grad` is scaled as long as this lasts. As in Micikevicius et al. 2018 (arXiv 1710.03740, section
    3.2), but nothing is guessed, because what a trained output is owed is known before the backward through the network
    begins. A power of two changes no digit.
    """
    _, exponent = math.frexp(float(mean(gradient.abs().amax())))
    scale = 2.0 ** min(-exponent, 64)
    _multiply_gradients(weights, scale)
    yield scale
    _multiply_gradients(weights, 1 / scale)


def _multiply_gradients(weights: Collection[Tensor], factor: float) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad *= factor

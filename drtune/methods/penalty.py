"""The pull towards the base: a price on outputs that leave those of the network without its adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drtune.methods.guidance import GuidedDenoiser
from drtune.models.adapter import without_adapter


@dataclass(frozen=True)
class BasePenalty:
    """weight * the mean over the batch of |out - out_base|^2 / (C H W), summed over the trained steps.

    The base is run where the tuned network was, and its output counts as a constant. For steps with fresh noise this is
    the KL divergence from the base's steps, each with a weight of its own (DPOK, Fan et al. 2023, arXiv 2305.16381).
    """

    denoiser: GuidedDenoiser
    weight: float

    def part(self, rows: slice) -> BasePenalty:
        """The mean over some of the batch alone."""
        return BasePenalty(self.denoiser.part(rows), self.weight)

    @torch.no_grad()
    def __call__(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The gradient at outputs of trained steps: (B, C, H, W), or several such batches laid end to end."""
        with without_adapter(self.denoiser.base):
            distance = output - self.denoiser(latents, timesteps)
        return 2 * self.weight / (self.denoiser.batch * output[0].numel()) * distance

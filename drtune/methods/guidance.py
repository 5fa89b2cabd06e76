"""The denoiser as the sweep sees it: the base's network conditioned on one batch of prompts, guidance included."""

from __future__ import annotations

import torch
from torch import Tensor

from drtune.config import TuningSamplerConfig
from drtune.models.base import Base, Conditions


class GuidedDenoiser:
    """`denoiser(latents_BCHW, timesteps_B)`, with classifier-free guidance when the scale is above 1.

    out = negative + scale * (conditional - negative) or what the base makes of it (`Base.guide`), rescaled if asked
    for. A base that embeds guidance is run once and told the scale.
    """

    def __init__(
        self,
        base: Base,
        conditions: Conditions,
        negative: Conditions,
        settings: TuningSamplerConfig,
        *,
        arithmetic: torch.dtype = torch.float32,
    ) -> None:
        self.base, self.conditions = base, conditions
        self.batch = len(next(iter(conditions.values())))
        self.negative = {name: tensor.expand(self.batch, *tensor.shape[1:]) for name, tensor in negative.items()}
        self.scale = settings.guidance_scale
        self.guided = self.scale > 1 and not base.embeds_guidance
        self.rescale, self.negative_trains = settings.guidance_rescale, settings.guidance_gradient == "both"
        self.settings, self.arithmetic = settings, arithmetic

    def part(self, rows: slice) -> GuidedDenoiser:
        """The same, conditioned on some of the prompts."""
        conditions = {name: tensor[rows] for name, tensor in self.conditions.items()}
        negative = {name: tensor[:1] for name, tensor in self.negative.items()}
        return GuidedDenoiser(self.base, conditions, negative, self.settings, arithmetic=self.arithmetic)

    def __call__(self, latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """The output in the latents' own precision; a multiple of the batch is taken as whole batches end to end."""
        dtype = latents_BCHW.dtype
        # Without a cache of cast weights: they train, and the roll-out has no graph to which a cast could belong.
        with torch.autocast(
            latents_BCHW.device.type, self.arithmetic, enabled=self.arithmetic != torch.float32, cache_enabled=False
        ):
            return self._guide(latents_BCHW.to(self.base.dtype), timesteps_B).to(dtype)

    def _guide(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        if not self.guided:
            return self._predict(latents, timesteps, self.conditions)
        if self.negative_trains:
            negative, conditional = self._predict(
                latents.repeat(2, 1, 1, 1), timesteps.repeat(2), self.negative, self.conditions
            ).chunk(2)
        else:
            conditional = self._predict(latents, timesteps, self.conditions)
            with torch.no_grad():
                negative = self._predict(latents, timesteps, self.negative)
        guided = self.base.guide(negative, conditional, self.scale)
        return _rescaled(guided, conditional, self.rescale) if self.rescale else guided

    def _predict(self, latents: Tensor, timesteps: Tensor, *parts: Conditions) -> Tensor:
        """The network's output for equally many batches of each part, the first part's first."""
        times = len(latents) // (self.batch * len(parts))
        conditions = {name: torch.cat([part[name] for part in parts for _ in range(times)]) for name in parts[0]}
        return self.base.predict(latents, timesteps, conditions, self.scale)


def _rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Lin et al. 2023 (arXiv 2305.08891), section 3.4: give guided output the deviation of the conditional one."""
    dims = tuple(range(1, guided.ndim))
    factor = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return share * factor * guided + (1 - share) * guided

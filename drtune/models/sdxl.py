"""Stable Diffusion XL: a UNet that reads two text encoders, their pooled output, and the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from drtune.models.base import Base, Conditions
from drtune.models.stable_diffusion import UNET_TARGETS


class StableDiffusionXL(Base):
    """`StableDiffusionXLPipeline`."""

    pipeline_class = StableDiffusionXLPipeline
    network_name = "unet"
    samplers = ("ddim", "euler")
    lora_targets = UNET_TARGETS

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D) and `pooled_prompt_embeds` (B, P)."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    @torch.no_grad()
    def encode_negative(self, prompt: str) -> Conditions:
        """As `Base`: zeros for the empty prompt, where the pipeline wants that."""
        _, embeds, _, pooled = self.pipeline.encode_prompt("", negative_prompt=prompt or None)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def pixels(self, latents_BCHW: Tensor) -> Tensor:
        """As `Base`, of latents that stand for those of the VAE less their mean, over their deviation."""
        mean, deviation = self._spread(latents_BCHW)
        return super().pixels(latents_BCHW * deviation + mean)

    def latents_of(self, images_BCHW: Tensor) -> Tensor:
        """As `Base`."""
        mean, deviation = self._spread(images_BCHW)
        return (super().latents_of(images_BCHW) - mean) / deviation

    def _spread(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation by channel of the VAE's latents, times their factor; 0 and 1 unless it tells both."""
        config = self.pipeline.vae.config
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        if mean is None or deviation is None:
            return like.new_zeros(()), like.new_ones(())
        mean, deviation = (like.new_tensor(part).view(-1, 1, 1) for part in (mean, deviation))
        return mean * config.scaling_factor, deviation

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        # Original size, crop corner, target size.
        time_ids = latents_BCHW.new_tensor([self.height, self.width, 0, 0, self.height, self.width])
        added = {
            "text_embeds": conditions["pooled_prompt_embeds"],
            "time_ids": time_ids.expand(len(latents_BCHW), 6),
        }
        output: Tensor = self.network(
            latents_BCHW, timesteps_B, conditions["prompt_embeds"], added_cond_kwargs=added, return_dict=False
        )[0]
        return output

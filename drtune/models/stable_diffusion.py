"""Stable Diffusion 1.x and 2.x: a UNet that reads one CLIP text encoder; 2.1 predicts v."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from drtune.models.base import Base, Conditions

UNET_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
)


class StableDiffusion(Base):
    """`StableDiffusionPipeline`."""

    pipeline_class = StableDiffusionPipeline
    network_name = "unet"
    samplers = ("ddim", "euler")
    lora_targets = UNET_TARGETS
    load_arguments = MappingProxyType({"safety_checker": None})  # pictures that it blackens cannot be scored

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D)."""
        embeds, _ = self.pipeline.encode_prompt(
            list(prompts), self.encoding_device, 1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds}

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        output: Tensor = self.network(latents_BCHW, timesteps_B, conditions["prompt_embeds"], return_dict=False)[0]
        return output

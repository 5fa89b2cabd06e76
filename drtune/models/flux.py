"""FLUX.1: a transformer that takes latents as 2 x 2 patches and is told the guidance scale, on a flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from drtune.models.base import Base, Conditions, shift_of
from drtune.models.sampler import Scheduler
from drtune.models.sd3 import JOINT_TARGETS


class PatchedBase(Base):
    """A base on a flow whose transformer takes latents packed: each 2 x 2 patch of them as one token."""

    network_name = "transformer"
    samplers = ("flow_euler",)
    patch = 2

    @property
    def native_side(self) -> int:
        """As `Base`."""
        return int(self.pipeline.default_sample_size) * self.factor

    @property
    def num_channels(self) -> int:
        """As `Base`: of the latents before they are packed."""
        return int(self.network.config.in_channels) // self.patch**2

    def pack(self, latents_BCHW: Tensor) -> Tensor:
        """As `Base`: (B, L, 4 C), the patches row by row."""
        return pixel_unshuffle(latents_BCHW, self.patch).flatten(2).mT

    def unpack(self, packed_BLC: Tensor) -> Tensor:
        """As `Base`."""
        _, height, width = self.latents_shape
        return pixel_shuffle(packed_BLC.mT.unflatten(2, (height // self.patch, width // self.patch)), self.patch)

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """As `Base`."""
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=shift_of(scheduler, self.num_tokens))


class Flux(PatchedBase):
    """`FluxPipeline`: FLUX.1-dev, and FLUX.1-schnell, which has no guidance: its scale changes nothing there."""

    pipeline_class = FluxPipeline
    embeds_guidance = True

    def __init__(self, pipeline: FluxPipeline, *, height: int | None = None, width: int | None = None) -> None:
        super().__init__(pipeline, height=height, width=width)
        # The network's own proj_out is left alone, as everywhere else: kohya's readers know no adapter on it.
        blocks = range(self.network.config.num_single_layers)
        proj_outs = (f"single_transformer_blocks.{block}.proj_out" for block in blocks)
        self.lora_targets = (*JOINT_TARGETS, "add_q_proj", "proj_mlp", *proj_outs)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D) of T5 and `pooled_prompt_embeds` (B, P) of CLIP."""
        embeds, pooled, _ = self.pipeline.encode_prompt(list(prompts), device=self.encoding_device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, guidance: float) -> Tensor:
        """As `Base`."""
        height, width = (side // self.patch for side in latents_BCHW.shape[2:])
        embeds = conditions["prompt_embeds"]
        told = latents_BCHW.new_full((len(latents_BCHW),), guidance) if self.network.config.guidance_embeds else None
        packed_BLC: Tensor = self.network(
            self.pack(latents_BCHW),
            encoder_hidden_states=embeds,
            pooled_projections=conditions["pooled_prompt_embeds"],
            timestep=timesteps_B.to(latents_BCHW.dtype) / 1000,
            guidance=told,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=_positions(height, width).to(embeds),
            return_dict=False,
        )[0]
        return self.unpack(packed_BLC)


def _positions(height: int, width: int) -> Tensor:
    """Where each patch is: (height * width, 3) with zero, row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)

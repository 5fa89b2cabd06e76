"""Stable Diffusion 3 and 3.5: a transformer over text and image tokens together, on a flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from drtune.errors import UserError
from drtune.models.base import Base, Conditions, shift_of
from drtune.models.sampler import Scheduler

JOINT_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)


class StableDiffusion3(Base):
    """`StableDiffusion3Pipeline`, with or without its T5 encoder."""

    pipeline_class = StableDiffusion3Pipeline
    network_name = "transformer"
    samplers = ("flow_euler",)
    patch = 2

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, *, height: int | None = None, width: int | None = None
    ) -> None:
        super().__init__(pipeline, height=height, width=width)
        # What the text tokens ask for in the last block goes nowhere.
        before_last = range(self.network.config.num_layers - 1)
        self.lora_targets = (
            *JOINT_TARGETS,
            *(f"transformer_blocks.{block}.attn.add_q_proj" for block in before_last),
        )

    def _side(self, name: str, given: int | None) -> int:
        side = super()._side(name, given)
        largest = self.network.config.pos_embed_max_size * self.patch * self.factor
        if side > largest:
            raise UserError(f"{name}={side}: this base has positions for at most {largest} pixels; give less")
        return side

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D), in which zeros stand for a T5 that is not there, and `pooled_prompt_embeds`."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, None, device=self.encoding_device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        output: Tensor = self.network(
            latents_BCHW,
            conditions["prompt_embeds"],
            conditions["pooled_prompt_embeds"],
            timesteps_B,
            return_dict=False,
        )[0]
        return output

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """As `Base`."""
        scheduler.set_timesteps(num_steps, mu=shift_of(scheduler, self.num_tokens))

"""FLUX.2 klein: a transformer over text and image tokens, whose latents are four of its VAE's laid over each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from drtune.errors import UserError
from drtune.models.base import Conditions
from drtune.models.language import LanguageModelBase
from drtune.models.sampler import Scheduler

DOUBLE_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
)


class Flux2Klein(LanguageModelBase):
    """`Flux2KleinPipeline`, distilled or not. A distilled one has no guidance: its scale changes nothing there."""

    pipeline_class = Flux2KleinPipeline
    network_name = "transformer"
    samplers = ("flow_euler",)
    folded = 2
    max_tokens = 512

    def __init__(self, pipeline: Flux2KleinPipeline, *, height: int | None = None, width: int | None = None) -> None:
        super().__init__(pipeline, height=height, width=width)
        self.embeds_guidance = bool(pipeline.config.is_distilled)
        blocks = range(self.network.config.num_single_layers)
        to_outs = (f"single_transformer_blocks.{block}.attn.to_out" for block in blocks)
        self.lora_targets = (*DOUBLE_TARGETS, "to_qkv_mlp_proj", *to_outs)

    @property
    def native_side(self) -> int:
        """As `Base`."""
        return int(self.pipeline.default_sample_size * self.pipeline.vae_scale_factor)

    def in_template(self, prompt: str) -> str:
        """As `LanguageModelBase`."""
        text: str = self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, 3 D) of three layers; what fills a prompt up is told from it by nothing."""
        embeds, _ = self.pipeline.encode_prompt(list(prompts), device=self.encoding_device)
        return {"prompt_embeds": embeds}

    def encode_negative(self, prompt: str) -> Conditions:
        """As `Base`.

        Raises:
            UserError: it is not empty, which the pipeline has no argument for.
        """
        if prompt:
            raise UserError(f"negative_prompt={prompt!r}: a Flux2KleinPipeline takes the empty one alone; leave it out")
        return self.encode([prompt])

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        height, width = latents_BCHW.shape[2:]
        embeds = conditions["prompt_embeds"]
        tokens_BLC: Tensor = self.network(
            latents_BCHW.flatten(2).mT,
            encoder_hidden_states=embeds,
            timestep=timesteps_B.to(latents_BCHW.dtype) / 1000,
            txt_ids=_positions(1, 1, embeds.shape[1], embeds.device),
            img_ids=_positions(height, width, 1, embeds.device),
            return_dict=False,
        )[0]
        output: Tensor = tokens_BLC.mT.unflatten(2, (height, width))
        return output

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """As `Base`; here mu is an empirical function of the number of steps, too."""
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=compute_empirical_mu(self.num_tokens, num_steps))

    def pixels(self, latents_BCHW: Tensor) -> Tensor:
        """As `Base`."""
        mean, deviation = self._spread(latents_BCHW)
        return self._decoded(pixel_shuffle(latents_BCHW * deviation + mean, self.folded))

    def latents_of(self, images_BCHW: Tensor) -> Tensor:
        """As `Base`."""
        folded = pixel_unshuffle(self._encoded(images_BCHW), self.folded)
        mean, deviation = self._spread(folded)
        return (folded - mean) / deviation

    def _spread(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the folded latents of the VAE."""
        norm = self.pipeline.vae.bn
        mean, variance = (part.view(1, -1, 1, 1).to(like) for part in (norm.running_mean, norm.running_var))
        return mean, (variance + self.pipeline.vae.config.batch_norm_eps).sqrt()

    def final_pixels(self, latents: Tensor) -> Tensor:
        """As `Base`: the pipeline's last latents are those of the VAE."""
        return self._decoded(latents)


def _positions(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """Where each token is: (height * width * length, 4) with zero, row, column and place in the text."""
    axes = (torch.arange(size, device=device) for size in (1, height, width, length))
    return torch.cartesian_prod(*axes)

"""Z-Image and Z-Image-Turbo: one stream of text and image tokens, on a flow that runs from noise to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from torch import Tensor

from drtune.models.base import Conditions, shift_of
from drtune.models.language import LanguageModelBase, lengths
from drtune.models.sampler import Scheduler


class ZImage(LanguageModelBase):
    """`ZImagePipeline`. Its own `guidance_scale` is one less than ours: it adds what ours puts in place."""

    pipeline_class = ZImagePipeline
    network_name = "transformer"
    samplers = ("flow_euler",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")
    patch = 2
    noise_dtype = torch.float32
    max_tokens = 512

    @property
    def native_side(self) -> int:
        """As `Base`: of 1024 x 1024 pixels, which its configuration does not say."""
        return 1024

    def in_template(self, prompt: str) -> str:
        """As `LanguageModelBase`."""
        text: str = self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return text

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D) of the last layer but one, and `prompt_mask` (B, L), true at tokens of the text."""
        tokens = self.tokenized(prompts)
        mask = tokens["attention_mask"].bool()
        states = self.pipeline.text_encoder(tokens["input_ids"], mask, output_hidden_states=True).hidden_states
        return {"prompt_embeds": states[-2], "prompt_mask": mask}

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`; time runs the other way in this network, and so does what it predicts."""
        pictures: list[Tensor] = self.network(
            list(latents_BCHW.unsqueeze(2)), (1000 - timesteps_B) / 1000, _rows(conditions), return_dict=False
        )[0]
        return -torch.stack(pictures).squeeze(2)

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """As `Base`."""
        scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(num_steps), mu=shift_of(scheduler, self.num_tokens))

    @classmethod
    def guidance_argument(cls, guidance_scale: float) -> dict[str, float]:
        """As `Base`."""
        return {"guidance_scale": guidance_scale - 1}

    def pipeline_conditions(self, conditions: Conditions) -> dict[str, Any]:
        """As `Base`: a list of rows, each as long as its text."""
        return {"prompt_embeds": _rows(conditions)}


def _rows(conditions: Conditions) -> list[Tensor]:
    """Each prompt's tokens (L, D), without what fills them up."""
    counts = lengths(conditions["prompt_mask"])
    return [row[:count] for row, count in zip(conditions["prompt_embeds"], counts, strict=True)]

"""Qwen-Image: a transformer over text and image tokens, whose true guidance keeps the length of each token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import QwenImagePipeline
from torch import Tensor
from torch._subclasses import FakeTensor

from drtune.models.base import Conditions
from drtune.models.flux import PatchedBase
from drtune.models.language import LanguageModelBase

ALL_BLOCKS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "img_mlp.net.0.proj", "img_mlp.net.2")
BEFORE_THE_LAST = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")


class QwenImageBase(PatchedBase, LanguageModelBase):
    """A Qwen-Image, whose `true_cfg_scale` is our guidance scale, and whose VAE is one for films."""

    names_negative = True
    head: int
    """Tokens of the template before the prompt, of which the network sees nothing."""

    @abstractmethod
    def states(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """What the network reads of the text encoder (B, L, D)."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """`prompt_embeds` (B, L, D), what the network reads after the head, and `prompt_embeds_mask` (B, L)."""
        tokens = self.tokenized(prompts)
        mask = tokens["attention_mask"]
        states, mask = self.states(tokens["input_ids"], mask)[:, self.head :], mask[:, self.head :].bool()
        return {"prompt_embeds": states * mask.unsqueeze(2), "prompt_embeds_mask": mask}

    @classmethod
    def guidance_argument(cls, guidance_scale: float) -> dict[str, float]:
        """As `Base`."""
        return {"true_cfg_scale": guidance_scale}

    def pixels(self, latents_BCHW: Tensor) -> Tensor:
        """As `Base`, in all channels of the VAE, to which a picture is a film of a single frame."""
        mean, deviation = self._spread(latents_BCHW)
        return self._decoded((latents_BCHW * deviation + mean).unsqueeze(2)).squeeze(2)

    def latents_of(self, images_BCHW: Tensor) -> Tensor:
        """As `Base`, of images in all channels of the VAE."""
        mean, deviation = self._spread(images_BCHW)
        return (self._encoded(images_BCHW.unsqueeze(2)).squeeze(2) - mean) / deviation

    def _spread(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's latents, by channel."""
        config = self.pipeline.vae.config
        mean, deviation = (like.new_tensor(part).view(-1, 1, 1) for part in (config.latents_mean, config.latents_std))
        return mean, deviation


class QwenImage(QwenImageBase):
    """`QwenImagePipeline`."""

    pipeline_class = QwenImagePipeline
    head = 34
    max_tokens = head + 512

    def __init__(self, pipeline: QwenImagePipeline, *, height: int | None = None, width: int | None = None) -> None:
        super().__init__(pipeline, height=height, width=width)
        # What the text tokens become in the last block goes nowhere.
        before_last = range(self.network.config.num_layers - 1)
        early = (f"transformer_blocks.{block}.{name}" for block in before_last for name in BEFORE_THE_LAST)
        self.lora_targets = (*ALL_BLOCKS, *early)

    def in_template(self, prompt: str) -> str:
        """As `LanguageModelBase`."""
        text: str = self.pipeline.prompt_template_encode.format(prompt)
        return text

    def states(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """As `QwenImageBase`: of its last layer."""
        encoder = self.pipeline.text_encoder
        states: Tensor = encoder(tokens_BL, attention_mask=mask_BL, output_hidden_states=True).hidden_states[-1]
        return states

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        batch, _, height, width = latents_BCHW.shape
        packed_BLC: Tensor = self.network(
            self.pack(latents_BCHW),
            conditions["prompt_embeds"],
            conditions["prompt_embeds_mask"],
            timesteps_B.to(latents_BCHW.dtype) / 1000,
            [[(1, height // self.patch, width // self.patch)]] * batch,
            return_dict=False,
        )[0]
        return self.unpack(packed_BLC)

    def guide(self, negative: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """As `Base`, but each token keeps the length that it has without guidance."""
        guided = self.pack(super().guide(negative, conditional, scale))
        return self.unpack(
            guided * (self.pack(conditional).norm(dim=2, keepdim=True) / guided.norm(dim=2, keepdim=True))
        )

    def pipeline_conditions(self, conditions: Conditions) -> dict[str, Any]:
        """As `Base`; the pipeline looks into the mask, and in a plan there is nothing to be seen."""
        told = dict(conditions)
        if isinstance(told["prompt_embeds_mask"], FakeTensor):
            del told["prompt_embeds_mask"]
        return told

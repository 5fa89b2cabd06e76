"""The tunable model: a Stable Diffusion XL pipeline, its denoiser as the sweep sees it, and the adapter on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor
from transformers.utils import logging as transformers_logging

from drtune.config import LoraSection
from drtune.errors import UserError
from drtune.miniature import CHECKPOINT


def load_pipeline(base_model: str, revision: str | None) -> StableDiffusionXLPipeline:
    """The base: `miniature`, a hub id (HF_TOKEN and HF_HUB_OFFLINE are honoured), or a local folder. Frozen, on CPU.

    Raises:
        UserError: nothing can be loaded under that name.
    """
    source = CHECKPOINT if base_model == "miniature" else base_model
    try:
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            source, revision=revision, dtype=torch.float32, add_watermarker=False
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"base_model={base_model!r}, base_revision={revision!r}: cannot be loaded "
            f"({str(error).splitlines()[0]}); give 'miniature', a hub id, or a folder of an SDXL pipeline"
        ) from None
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class PromptEmbeds:
    """What conditions the denoiser on B prompts: per-token embeddings (B, L, D) and pooled ones (B, P)."""

    embeds: Tensor
    pooled: Tensor

    def __getitem__(self, index: Sequence[int]) -> PromptEmbeds:
        """Those of some prompts."""
        return PromptEmbeds(self.embeds[list(index)], self.pooled[list(index)])


@torch.no_grad()
def encode_prompts(pipeline: StableDiffusionXLPipeline, prompts: Sequence[str]) -> tuple[PromptEmbeds, PromptEmbeds]:
    """Embeddings of the prompts, and those of the empty prompt (B = 1) as the pipeline itself would guide with."""
    embeds, pooled = [], []
    for start in range(0, len(prompts), 64):
        batch = list(prompts[start : start + 64])
        batch_embeds, _, batch_pooled, _ = pipeline.encode_prompt(batch, do_classifier_free_guidance=False)
        embeds.append(batch_embeds)
        pooled.append(batch_pooled)
    _, empty_embeds, _, empty_pooled = pipeline.encode_prompt("", do_classifier_free_guidance=True)
    return PromptEmbeds(torch.cat(embeds), torch.cat(pooled)), PromptEmbeds(empty_embeds, empty_pooled)


class GuidedDenoiser:
    """The UNet conditioned on one batch of prompts, with classifier-free guidance when the scale is above 1.

    out = empty + scale * (conditional - empty) (Ho and Salimans 2022), with gradient through both.
    """

    def __init__(
        self, unet: UNet2DConditionModel, prompt: PromptEmbeds, empty: PromptEmbeds, guidance_scale: float, size: int
    ) -> None:
        batch = len(prompt.embeds)
        self.unet = unet
        self.guidance_scale = guidance_scale
        self.embeds, pooled = prompt.embeds, prompt.pooled
        if guidance_scale > 1:
            self.embeds = torch.cat([empty.embeds.expand(batch, -1, -1), self.embeds])
            pooled = torch.cat([empty.pooled.expand(batch, -1), pooled])
        # SDXL's size conditioning: original size, crop corner, target size.
        time_ids = pooled.new_tensor([size, size, 0, 0, size, size]).expand(len(pooled), 6)
        self.added = {"text_embeds": pooled, "time_ids": time_ids}

    def __call__(self, latents_BCHW: Tensor, timestep: int) -> Tensor:
        """The network's output (B, C, H, W) at `timestep`, after guidance."""
        if self.guidance_scale <= 1:
            return self._network(latents_BCHW, timestep)
        empty, conditional = self._network(latents_BCHW.repeat(2, 1, 1, 1), timestep).chunk(2)
        return empty + self.guidance_scale * (conditional - empty)

    def _network(self, latents: Tensor, timestep: int) -> Tensor:
        output: Tensor = self.unet(latents, timestep, self.embeds, added_cond_kwargs=self.added, return_dict=False)[0]
        return output


def decode(pipeline: StableDiffusionXLPipeline, latents_BCHW: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of clean latents; a pixel beyond that range is clamped and has no gradient."""
    vae = pipeline.vae
    images: Tensor = vae.decode(latents_BCHW / vae.config.scaling_factor, return_dict=False)[0]
    return (images / 2 + 0.5).clamp(0, 1)


def add_adapter(unet: UNet2DConditionModel, lora: LoraSection, seed: int) -> dict[str, torch.nn.Parameter]:
    """Put a fresh LoRA on the frozen UNet; returns its weights by name, the only ones that train.

    Raises:
        UserError: none of the targets is a layer of the UNet.
    """
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), init_lora_weights=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            unet.add_adapter(config)
        except ValueError as error:
            raise UserError(f"lora.targets={list(lora.targets)}: {str(error).splitlines()[0]}") from None
    return {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}


def save_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write `folder/ADAPTER_FILE` in diffusers' format. Its metadata keep alpha, which the format alone would lose."""
    settings = unet.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, ordered differently in every process
    about = json.dumps({f"unet.{key}": value for key, value in settings.items()}, sort_keys=True)

    def write(tensors: dict[str, Tensor], path: str) -> None:
        # One entry alone: safetensors writes several in an order that chance decides, and equal adapters would differ.
        Path(path).write_bytes(save(tensors, {LORA_ADAPTER_METADATA_KEY: about}))

    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(unet), save_function=write
    )


def quiet_libraries() -> None:
    """Keep the chatter and the loading bars of diffusers and transformers off the screen; their errors stay."""
    for library_logging in (diffusers_logging, transformers_logging):
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()

"""The real classes at tiny size, with random weights: what the tests tune when they need no pictures."""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTokenizer

from drtune.config import LoraSection
from drtune.miniature.tokenizer import train_tokenizer
from drtune.model import GuidedDenoiser, PromptEmbeds, add_adapter


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """SDXL's UNet with 0.1 M parameters."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=12,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
        norm_num_groups=4,
    )
    return unet.eval().requires_grad_(False)


def tunable_unet(dtype: torch.dtype, seed: int = 0) -> tuple[UNet2DConditionModel, list[torch.Tensor]]:
    """A tiny UNet with a LoRA that already does something, and the LoRA's weights."""
    unet = tiny_unet(seed)
    weights = list(add_adapter(unet, LoraSection(rank=2, alpha=2.0), seed).values())
    unet.to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return unet, weights


def denoiser_of(unet: UNet2DConditionModel, guidance_scale: float, batch: int = 2, seed: int = 0) -> GuidedDenoiser:
    """The UNet conditioned on random embeddings."""
    generator = torch.Generator().manual_seed(seed)

    def embeds(rows: int) -> PromptEmbeds:
        tokens = torch.randn(rows, 5, 12, generator=generator).to(unet.dtype)
        return PromptEmbeds(tokens, torch.randn(rows, 8, generator=generator).to(unet.dtype))

    return GuidedDenoiser(unet, embeds(batch), embeds(1), guidance_scale, size=16)


@lru_cache(maxsize=1)
def tokenizer() -> CLIPTokenizer:
    """The miniature's tokenizer."""
    return train_tokenizer()

"""The real classes at tiny size, with random weights: what the tests tune when they need no pictures."""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from drtune.config import LoraSection, TuningSamplerConfig
from drtune.methods.guidance import GuidedDenoiser
from drtune.models.adapter import add_adapter
from drtune.models.base import Conditions
from drtune.models.sampler import Sampler, read_sampler
from drtune.models.sdxl import StableDiffusionXL
from tools.miniature.networks import make_scheduler
from tools.miniature.tokenizer import train_tokenizer

TOKEN_WIDTH, POOLED_WIDTH = 12, 8
UNGUIDED = TuningSamplerConfig()


@lru_cache
def ddim(num_steps: int, eta: float = 0.0) -> Sampler:
    """The miniature's schedule in so many steps."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(num_steps)
    return read_sampler(scheduler, eta)


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
        cross_attention_dim=TOKEN_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 4,
        norm_num_groups=4,
    )
    return unet.eval().requires_grad_(False)


def tiny_base(dtype: torch.dtype = torch.float32, seed: int = 0) -> StableDiffusionXL:
    """SDXL around the tiny UNet: latents (4, 4, 4), images of 8 x 8 pixels, no text encoders."""
    unet = tiny_unet(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=4,
        norm_num_groups=2,
        sample_size=8,
        force_upcast=False,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae.eval().requires_grad_(False),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=make_scheduler(),
        add_watermarker=False,
    )
    return StableDiffusionXL(pipeline.to(dtype))


def tunable_base(dtype: torch.dtype, seed: int = 0) -> tuple[StableDiffusionXL, list[Tensor]]:
    """A tiny base with a LoRA that already does something, on some layers of each kind, and the LoRA's weights."""
    base = tiny_base(dtype, seed)
    lora = LoraSection(rank=2, alpha=2.0, targets=("to_q", "ff.net.2", "conv1"))
    weights = list(add_adapter(base, lora, seed).values())
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    base.network.to(dtype)
    return base, weights


def conditions_of(base: StableDiffusionXL, rows: int, seed: int = 0) -> Conditions:
    """Random embeddings of some prompts."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "prompt_embeds": torch.randn(rows, 5, TOKEN_WIDTH, generator=generator).to(base.dtype),
        "pooled_prompt_embeds": torch.randn(rows, POOLED_WIDTH, generator=generator).to(base.dtype),
    }


def denoiser_of(
    base: StableDiffusionXL, settings: TuningSamplerConfig = UNGUIDED, batch: int = 2, seed: int = 0
) -> GuidedDenoiser:
    """The base conditioned on random embeddings, guided away from others."""
    return GuidedDenoiser(base, conditions_of(base, batch, seed), conditions_of(base, 1, seed + 100), settings)


@lru_cache(maxsize=1)
def tokenizer() -> CLIPTokenizer:
    """The miniature's tokenizer."""
    return train_tokenizer()

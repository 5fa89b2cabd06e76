"""What each network of the miniature learns, one function a stage. `build.py` runs them in order."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from drtune.files.local import replacing
from drtune.models.miniature.world import IMAGE_SIZE, Scene, draw, scenes
from tools.miniature.fit import fit
from tools.miniature.networks import make_scheduler, make_text_encoders, make_unet, make_vae

POOL_SEED = 1
POOL_SIZE = 32_768


def training_pool(folder: Path) -> tuple[list[Scene], Tensor]:
    """The training scenes and their images (N, 3, 32, 32) in [0, 1] as bytes; drawn once, then read from `folder`."""
    pool = scenes(POOL_SEED, POOL_SIZE)
    path = folder / "pool.safetensors"
    if not path.exists():
        chunks = [draw(pool[i : i + 512], seed=POOL_SEED + i) for i in range(0, len(pool), 512)]
        with replacing(path) as written:
            save_file({"images": (torch.cat(chunks) * 255).round().to(torch.uint8)}, written)
    return pool, load_file(path)["images"]


def choose(step: int, batch: int, seed: int) -> tuple[Tensor, torch.Generator]:
    """Indices into the pool for one step, and the generator for whatever else the step draws."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(POOL_SIZE, (batch,), generator=generator), generator


def train_vae(images: Tensor, folder: Path, steps: int) -> AutoencoderKL:
    """Reconstruct images: absolute error of pixels and of their differences (crisp edges), slight KL."""
    torch.manual_seed(10)
    vae = make_vae()

    def loss_of_step(step: int) -> Tensor:
        chosen, generator = choose(step, 32, seed=11)
        pixels = images[chosen].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        loss = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels)
        for dim in (-1, -2):
            loss = loss + F.l1_loss(decoded.diff(dim=dim), pixels.diff(dim=dim))
        total: Tensor = loss + 1e-6 * posterior.kl().float().mean()
        return total

    fit("vae", vae, loss_of_step, steps=steps, learning_rate=2e-3, folder=folder)
    return vae


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Unit-variance latents (N, 4, 8, 8) of the pool; sets the VAE's scaling factor from their spread."""
    chunks = [vae.encode(images[i : i + 256].float() / 127.5 - 1).latent_dist.mean for i in range(0, len(images), 256)]
    latents = torch.cat(chunks)
    scaling_factor = round(1.0 / latents.std().item(), 5)
    vae.register_to_config(scaling_factor=scaling_factor)
    return latents * scaling_factor


class TextConditionedUNet(nn.Module):
    """UNet and both text encoders as the one network that is trained."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = make_unet()
        first, second = make_text_encoders(tokenizer)
        self.first: CLIPTextModel = first
        self.second: CLIPTextModelWithProjection = second

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, keep: Tensor) -> Tensor:
        """Predicted noise; where `keep` (B,) is 0 the text is dropped, as zeros, which is SDXL's empty prompt."""
        first = self.first(tokens, output_hidden_states=True)
        second = self.second(tokens, output_hidden_states=True)
        embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1) * keep[:, None, None]
        size = float(IMAGE_SIZE)
        time_ids = torch.tensor([[size, size, 0.0, 0.0, size, size]]).expand(len(noisy), 6)
        added = {"text_embeds": second.text_embeds * keep[:, None], "time_ids": time_ids}
        predicted: Tensor = self.unet(noisy, timesteps, embeds, added_cond_kwargs=added).sample
        return predicted


def train_unet(
    latents: Tensor, captions: list[str], tokenizer: CLIPTokenizer, folder: Path, steps: int
) -> TextConditionedUNet:
    """Denoise latents: epsilon prediction, min-SNR-5 weights, one caption in ten dropped, averaged weights."""
    torch.manual_seed(20)
    network = TextConditionedUNet(tokenizer)
    scheduler = make_scheduler()
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = snr.clamp(max=5.0) / snr

    def loss_of_step(step: int) -> Tensor:
        chosen, generator = choose(step, 64, seed=21)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (len(clean),), generator=generator)
        keep = (torch.rand(len(clean), generator=generator) > 0.1).float()
        predicted = network(scheduler.add_noise(clean, noise, timesteps), timesteps, tokens[chosen], keep)
        loss: Tensor = (weights[timesteps] * (predicted - noise).square().mean((1, 2, 3))).mean()
        return loss

    fit("unet", network, loss_of_step, steps=steps, learning_rate=1e-3, folder=folder, ema_decay=0.998)
    return network

"""The miniature's preference model: a CLIP trained on pairs of pictures for one caption, as HPS was.

Nobody was asked: the better picture of each pair is known from how the pair was made. It loses by showing something
else than the caption says, by being blurred, faded, noisy or emptied, or by being sampled badly by the miniature. Where
things are does not enter: scores built on CLIP are known to see little of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from drtune.files.local import replacing
from drtune.files.progress import Progress
from drtune.models.miniature.world import BACKGROUNDS, COLOURS, IMAGE_SIZE, SHAPES, Scene, draw, scenes
from tools.miniature.fit import fit
from tools.miniature.networks import make_preference_model

DRAWN_PAIRS = 12_288
SAMPLED_PAIRS = 3_072


def misread(scene: Scene, rng: random.Random) -> Scene:
    """The same caption with one thing drawn wrongly: colour, shape, background, or an object left out."""
    wrong = rng.choice(("colour", "shape", "background", "missing"))
    index = rng.randrange(len(scene.things))
    things = list(scene.things)
    if wrong == "background":
        return replace(scene, background=rng.choice([name for name in BACKGROUNDS if name != scene.background]))
    if wrong == "missing":
        del things[index]
    elif wrong == "colour":
        taken = {thing.colour for thing in things}
        things[index] = replace(things[index], colour=rng.choice([name for name in COLOURS if name not in taken]))
    else:
        others = [name for name in SHAPES if name != things[index].shape]
        things[index] = replace(things[index], shape=rng.choice(others))
    return replace(scene, things=tuple(things))


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Spoil each image (B, 3, H, W) in one of four ways: blurred, faded, noisy, or greyed."""
    mean = images.mean((2, 3), keepdim=True)
    small = F.interpolate(images, scale_factor=0.25, mode="area")
    ways = torch.stack(
        [
            F.interpolate(small, size=IMAGE_SIZE, mode="bilinear"),
            mean + 0.4 * (images - mean),
            (images + 0.12 * torch.randn(images.shape, generator=generator)).clamp(0, 1),
            0.25 * images + 0.75 * images.mean(1, keepdim=True),
        ]
    )
    chosen = torch.randint(len(ways), (len(images),), generator=generator)
    return ways[chosen, torch.arange(len(images))]


def drawn_pairs() -> tuple[list[str], Tensor, Tensor]:
    """Captions, better and worse images (N, 3, 32, 32): drawn as said, against misread (half) or spoilt."""
    rng = random.Random(51)
    generator = torch.Generator().manual_seed(52)
    said = scenes(seed=50, count=DRAWN_PAIRS)
    better = draw(said, seed=53)
    half = DRAWN_PAIRS // 2
    worse = draw([misread(scene, rng) for scene in said[:half]], seed=54)
    return [scene.caption for scene in said], better, torch.cat([worse, degrade(better[half:], generator)])


def sampled_pairs(pipeline: StableDiffusionXLPipeline, folder: Path) -> tuple[list[str], Tensor, Tensor]:
    """Like `drawn_pairs` with the miniature's own pictures: a good sample of the caption against a worse one.

    A third each: a hasty sample without guidance, a good sample of another caption, a spoilt good sample.
    """
    captions = [scene.caption for scene in scenes(seed=55, count=SAMPLED_PAIRS)]
    third = SAMPLED_PAIRS // 3
    path = folder / "pairs.safetensors"
    if not path.exists():
        others = [scene.caption for scene in scenes(seed=56, count=third)]
        better = sample(pipeline, captions, seed=57, steps=15, guidance=3.0)
        hasty = sample(pipeline, captions[:third], seed=58, steps=4, guidance=1.0)
        misled = sample(pipeline, others, seed=59, steps=15, guidance=3.0)
        spoilt = degrade(better[2 * third :], torch.Generator().manual_seed(60))
        with replacing(path) as written:
            save_file({"better": better, "worse": torch.cat([hasty, misled, spoilt])}, written)
    pairs = load_file(path)
    return captions, pairs["better"], pairs["worse"]


def sample(
    pipeline: StableDiffusionXLPipeline, captions: Sequence[str], *, seed: int, steps: int, guidance: float
) -> Tensor:
    """The pipeline's images (N, 3, 32, 32) in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    chunks = []
    with Progress("sample", len(captions), "image") as progress:
        for start in range(0, len(captions), 128):
            images = pipeline(
                list(captions[start : start + 128]),
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed + start),
                output_type="pt",
            ).images
            chunks.append(images)
            progress.update(len(images))
    return torch.cat(chunks)


def train_preference_model(
    pairs: tuple[list[str], Tensor, Tensor], tokenizer: CLIPTokenizer, folder: Path, steps: int
) -> CLIPModel:
    """Bradley-Terry on the pairs, plus telling each caption's better picture from those of other captions."""
    torch.manual_seed(61)
    model = make_preference_model(tokenizer)
    captions, better, worse = pairs
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def loss_of_step(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(62_000_003 + step)
        chosen = torch.randint(len(captions), (64,), generator=generator)
        pixels = torch.cat([better[chosen], worse[chosen]]) * 2 - 1
        pixels = pixels + 0.02 * torch.randn(pixels.shape, generator=generator)
        image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        text = F.normalize(model.get_text_features(input_ids=tokens[chosen]).pooler_output, dim=-1)
        scale = model.logit_scale.exp().clamp(max=50)
        good, bad = (scale * image @ text.T).chunk(2)
        bradley_terry = -F.logsigmoid(good.diagonal() - bad.diagonal()).mean()
        return bradley_terry + 0.3 * F.cross_entropy(good.T, torch.arange(len(chosen)))

    fit("preference", model, loss_of_step, steps=steps, learning_rate=1e-3, folder=folder)
    return model


@torch.no_grad()
def agreement(model: CLIPModel, tokenizer: CLIPTokenizer, pairs: tuple[list[str], Tensor, Tensor]) -> float:
    """The fraction of pairs in which the model scores the better picture higher."""
    captions, better, worse = pairs
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    text = F.normalize(model.get_text_features(input_ids=tokens).pooler_output, dim=-1)
    scores = []
    for images in (better, worse):
        features = model.get_image_features(pixel_values=images * 2 - 1).pooler_output
        scores.append((F.normalize(features, dim=-1) * text).sum(-1))
    return (scores[0] > scores[1]).float().mean().item()

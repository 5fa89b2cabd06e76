"""Training of the probe, and how well it and the miniature do on captions that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from drtune.models.miniature.probe import Probe, position_is_right
from drtune.models.miniature.world import BACKGROUNDS, COLOURS, IMAGE_SIZE, SHAPES, Scene, draw, scenes
from tools.miniature.fit import fit


def train_probe(drawn: list[Scene], images: Tensor, vae: AutoencoderKL, folder: Path, steps: int) -> Probe:
    """Learn from drawings, half of them softened by the VAE as samples are, all of them slightly noisy."""
    torch.manual_seed(40)
    probe = Probe()
    background, present, shape, centre = _targets(drawn)

    def loss_of_step(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(41_000_003 + step)
        chosen = torch.randint(len(drawn), (64,), generator=generator)
        pixels = images[chosen].float() / 255
        with torch.no_grad():
            soft = vae.decode(vae.encode(pixels[:32] * 2 - 1).latent_dist.sample(generator)).sample
        pixels[:32] = (soft / 2 + 0.5).clamp(0, 1)
        pixels = pixels + 0.03 * torch.randn(pixels.shape, generator=generator)
        seen_background, seen_present, seen_shape, seen_centre = probe(pixels)
        there = present[chosen]
        return (
            F.cross_entropy(seen_background, background[chosen])
            + 4 * F.binary_cross_entropy_with_logits(seen_present, there)
            + F.cross_entropy(seen_shape[there > 0], shape[chosen][there > 0])
            + 20 * F.mse_loss(seen_centre[there > 0], centre[chosen][there > 0])
        )

    fit("probe", probe, loss_of_step, steps=steps, learning_rate=2e-3, folder=folder)
    return probe


def _targets(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    background = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in drawn])
    present = torch.zeros(len(drawn), len(COLOURS))
    shape = torch.zeros(len(drawn), len(COLOURS), dtype=torch.long)
    centre = torch.zeros(len(drawn), len(COLOURS), 2)
    for row, scene in enumerate(drawn):
        for thing in scene.things:
            colour = list(COLOURS).index(thing.colour)
            present[row, colour] = 1.0
            shape[row, colour] = SHAPES.index(thing.shape)
            centre[row, colour] = torch.tensor([thing.x, thing.y]) / IMAGE_SIZE
    return background, present, shape, centre


def judge(probe: Probe, images: Tensor, drawn: Sequence[Scene]) -> dict[str, float]:
    """How often images (B, 3, 32, 32) show what the captions of `drawn` say, each a fraction in [0, 1].

    `colour` and `shape` count every named object, `background` and `position` every caption (that names a position).
    """
    right: dict[str, list[bool]] = {"background": [], "colour": [], "position": [], "shape": []}
    for scene, seen in zip(drawn, probe.look(images), strict=True):
        right["background"].append(seen.background == scene.background)
        for thing in scene.things:
            found = seen.things.get(thing.colour)
            right["colour"].append(found is not None)
            right["shape"].append(found is not None and found.shape == thing.shape)
        if (position := position_is_right(scene, seen)) is not None:
            right["position"].append(position)
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


def held_out_scenes(count: int = 256) -> list[Scene]:
    """Scenes that no network of the miniature was trained on."""
    return scenes(seed=90_000, count=count)


def probe_accuracy(probe: Probe, count: int = 1024) -> dict[str, float]:
    """What the probe itself gets right on drawings: the ceiling of what it can find in samples."""
    drawn = held_out_scenes(count)
    return judge(probe, draw(drawn, seed=90_001), drawn)

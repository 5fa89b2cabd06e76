"""The probe: a small classifier that says what it sees in a picture of the world. It judges; it is never a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from drtune.models.miniature.world import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE,
    PLACES,
    RELATIONS,
    SHAPES,
    Scene,
    draw,
    scenes,
)
from tools.miniature.fit import fit


class Probe(nn.Module):
    """Reads an image (B, 3, 32, 32) in [0, 1].

    Gives logits of the background (B, 6) and, for each of the eight colours, whether an object has it (B, 8), the
    object's shape (B, 8, 6) and its centre (B, 8, 2) in units of the image side.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 24, 1), (24, 32, 2), (32, 48, 1), (48, 64, 2), (64, 64, 1), (64, 64, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(64 * 16, len(BACKGROUNDS) + len(COLOURS) * (1 + len(SHAPES) + 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Background, presence, shape and centre, as the class says."""
        background, objects = self.head(self.trunk(images * 2 - 1)).split(
            [len(BACKGROUNDS), len(COLOURS) * (3 + len(SHAPES))], dim=1
        )
        present, shape, centre = objects.view(len(images), len(COLOURS), -1).split([1, len(SHAPES), 2], dim=2)
        return background, present[..., 0], shape, centre.sigmoid()


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


def load_probe(checkpoint: Path) -> Probe:
    """The probe of a checkpoint folder, in single precision."""
    probe = Probe()
    probe.load_state_dict(
        {name: weight.float() for name, weight in load_file(checkpoint / "probe.safetensors").items()}
    )
    return probe.eval()


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


@torch.no_grad()
def judge(probe: Probe, images: Tensor, drawn: Sequence[Scene]) -> dict[str, float]:
    """How often images (B, 3, 32, 32) show what the captions of `drawn` say, each a fraction in [0, 1].

    `colour` and `shape` count every named object, `background` and `position` every caption (that names a position).
    """
    background, present, shape, centre = probe(images)
    named = list(BACKGROUNDS)
    right: dict[str, list[bool]] = {"background": [], "colour": [], "position": [], "shape": []}
    for row, scene in enumerate(drawn):
        right["background"].append(named[int(background[row].argmax())] == scene.background)
        centres = []
        for thing in scene.things:
            colour = list(COLOURS).index(thing.colour)
            seen = bool(present[row, colour] > 0)
            right["colour"].append(seen)
            right["shape"].append(seen and SHAPES[int(shape[row, colour].argmax())] == thing.shape)
            centres.append((centre[row, colour] * IMAGE_SIZE).tolist() if seen else None)
        if (position := _position_is_right(scene, centres)) is not None:
            right["position"].append(position)
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


def _position_is_right(scene: Scene, centres: list[list[float] | None]) -> bool | None:
    """Whether the seen centres fit the words of the caption; None if it says nothing about position."""
    if any(centre is None for centre in centres):
        return False
    seen = [centre for centre in centres if centre is not None]
    if len(seen) == 2:
        relation = next(words for words in RELATIONS if f" {words} " in scene.caption)
        (ax, ay), (bx, by) = RELATIONS[relation]
        along = (seen[0][0] - seen[1][0]) * (ax - bx) + (seen[0][1] - seen[1][1]) * (ay - by)
        return along / math.hypot(ax - bx, ay - by) > 4.0
    place = next((words for words in PLACES if f" {words}," in scene.caption), None)
    return None if place is None else place == min(PLACES, key=lambda words: math.dist(PLACES[words], seen[0]))


def held_out_scenes(count: int = 256) -> list[Scene]:
    """Scenes that no network of the miniature was trained on."""
    return scenes(seed=90_000, count=count)


def probe_accuracy(probe: Probe, count: int = 1024) -> dict[str, float]:
    """What the probe itself gets right on drawings: the ceiling of what it can find in samples."""
    drawn = held_out_scenes(count)
    return judge(probe, draw(drawn, seed=90_001), drawn)

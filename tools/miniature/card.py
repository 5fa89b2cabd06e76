"""The miniature's own model card: what it can do, measured on the checkpoint as it is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from drtune.files.images import to_pil
from drtune.files.local import write_text
from drtune.files.sheets import contact_sheet
from drtune.models.miniature.probe import Probe, load_probe
from drtune.models.miniature.world import Scene
from tools.miniature.preference import sample
from tools.miniature.probe import held_out_scenes, judge, probe_accuracy

GUIDANCE = 3.0
STEPS = 20
NUM_CAPTIONS = 256
SHOWN = 32

_CARD = """\
---
license: apache-2.0
library_name: diffusers
tags: [text-to-image, stable-diffusion-xl, toy]
---
# The miniature

A `StableDiffusionXLPipeline` of {millions:.1f} million parameters that draws 32 x 32 pictures of a small world: one or
two objects of eight colours and six shapes, in three sizes and nine places, on six backgrounds. It was trained from
nothing, on drawings alone, by `make miniature`. It exists so that drtune can be tried, tested and studied without a
download and without a GPU. It knows nothing of the real world.

    from diffusers import StableDiffusionXLPipeline
    from drtune.models.miniature import CHECKPOINT
    pipeline = StableDiffusionXLPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    pipeline("a large red ring on the left, on a night background", guidance_scale=3.0, num_inference_steps=20)

![samples](samples.png)

## What it gets right

{count} held-out captions, guidance {guidance:g}, {steps} DDIM steps, judged by the probe (a classifier of the drawn
world that is never used as a reward). The last column is what the probe finds right in drawings.

| what | aim | samples | drawings |
|---|---|---|---|
{rows}

Position counts the place of a single object ({place:.1%} right) and the order of two ({order:.1%} right): it draws both
objects of a pair side by side or one above the other as asked, but which of them comes first is a matter of chance.

## Beside it

- `preference/`: a `CLIPModel` that plays the Human Preference Score. It prefers the better picture in {agreement:.1%}
  of the held-out pairs. Which one is better is known from how the pair was made; nobody was asked.
- `probe.safetensors`: the probe.

All weights are half precision safetensors; drtune computes with them in single precision.
"""

AIMS = {"background": 0.95, "colour": 0.90, "position": 0.85, "shape": 0.70}


def write_card(folder: Path, *, agreement: float) -> None:
    """Sample the checkpoint in `folder`, judge the samples, and write README.md and samples.png beside it."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    probe = load_probe(folder)
    drawn = held_out_scenes(NUM_CAPTIONS)
    images = sample(pipeline, [scene.caption for scene in drawn], seed=0, steps=STEPS, guidance=GUIDANCE)
    reached, ceiling = judge(probe, images, drawn), probe_accuracy(probe)
    rows = [f"| {name} | {aim:.0%} | {reached[name]:.1%} | {ceiling[name]:.1%} |" for name, aim in AIMS.items()]
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    card = _CARD.format(
        millions=sum(weight.numel() for part in parts for weight in part.parameters()) / 1e6,
        count=NUM_CAPTIONS,
        guidance=GUIDANCE,
        steps=STEPS,
        rows="\n".join(rows),
        place=_position(probe, images, drawn, num_things=1),
        order=_position(probe, images, drawn, num_things=2),
        agreement=agreement,
    )
    contact_sheet(to_pil(images[:SHOWN]), columns=8, side=96).save(folder / "samples.png")
    write_text(folder / "README.md", card)


def _position(probe: Probe, images: Tensor, drawn: Sequence[Scene], num_things: int) -> float:
    chosen = [index for index, scene in enumerate(drawn) if len(scene.things) == num_things]
    return judge(probe, images[chosen], [drawn[index] for index in chosen])["position"]

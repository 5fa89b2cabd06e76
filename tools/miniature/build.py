"""`python -m tools.miniature.build`: train every network of the miniature and write its checkpoint.

    drawings -> VAE -> latents -> UNet and text encoders -> samples -> preference model;  drawings -> probe

Every stage keeps its state in the work folder, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from drtune.files.local import replacing
from drtune.models.miniature import CHECKPOINT
from drtune.models.miniature.probe import Probe
from tools.miniature.card import write_card
from tools.miniature.networks import assemble
from tools.miniature.preference import agreement, drawn_pairs, sampled_pairs, train_preference_model
from tools.miniature.probe import train_probe
from tools.miniature.stages import encode_pool, train_unet, train_vae, training_pool
from tools.miniature.tokenizer import train_tokenizer

Pairs = tuple[list[str], Tensor, Tensor]


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/miniature"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=CHECKPOINT, help="Folder of the checkpoint.")
@click.option("--vae-steps", default=3000, show_default=True)
@click.option("--unet-steps", default=4000, show_default=True)
@click.option("--probe-steps", default=1200, show_default=True)
@click.option("--preference-steps", default=1500, show_default=True)
def main(work: Path, out: Path, vae_steps: int, unet_steps: int, probe_steps: int, preference_steps: int) -> None:
    """Train the miniature from nothing, in about an hour on two cores; started again, it goes on where it was."""
    for library_logging in (diffusers_logging, transformers_logging):
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()
    work.mkdir(parents=True, exist_ok=True)
    pool, images = training_pool(work)
    tokenizer = train_tokenizer()
    vae = train_vae(images, work, vae_steps)
    probe = train_probe(pool, images, vae, work, probe_steps)
    latents = encode_pool(vae, images)
    network = train_unet(latents, [scene.caption for scene in pool], tokenizer, work, unet_steps)
    pipeline = assemble(vae, network.unet, (network.first, network.second), tokenizer)
    learnt, held_out = _split(_joined(drawn_pairs(), sampled_pairs(pipeline, work)))
    preference = train_preference_model(learnt, tokenizer, work, preference_steps)

    with replacing(out) as folder:
        _save(folder, pipeline, probe, preference, tokenizer)
        write_card(folder, agreement=agreement(preference.float(), tokenizer, held_out))
    click.echo((out / "README.md").read_text(encoding="utf-8"))
    click.echo(f"miniature: written to {out}")


def _joined(first: Pairs, second: Pairs) -> Pairs:
    return first[0] + second[0], torch.cat([first[1], second[1]]), torch.cat([first[2], second[2]])


def _split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Every tenth pair is held out."""
    captions, better, worse = pairs
    held_out = torch.arange(len(captions)) % 10 == 9

    def part(mask: Tensor) -> Pairs:
        return [captions[index] for index in mask.nonzero().flatten().tolist()], better[mask], worse[mask]

    return part(~held_out), part(held_out)


def _save(
    folder: Path, pipeline: StableDiffusionXLPipeline, probe: Probe, preference: CLIPModel, tokenizer: CLIPTokenizer
) -> None:
    """Write everything in half precision."""
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, preference):
        part.half()
    pipeline.save_pretrained(folder)
    preference.save_pretrained(folder / "preference")
    tokenizer.save_pretrained(folder / "preference")
    save_file({name: weight.half() for name, weight in probe.state_dict().items()}, folder / "probe.safetensors")


if __name__ == "__main__":
    main()

"""The miniature as it is shipped, and the loop that trained it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from drtune.models.miniature import CHECKPOINT
from drtune.models.miniature.probe import load_probe
from drtune.models.miniature.world import scenes
from tools.miniature.fit import fit
from tools.miniature.preference import sample
from tools.miniature.probe import held_out_scenes, judge, probe_accuracy
from tools.miniature.tokenizer import train_tokenizer

AT_LEAST = {"background": 0.95, "colour": 0.90, "position": 0.80, "shape": 0.70}


def test_it_is_small_and_safe() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}


def test_plain_diffusers_loads_it_and_it_draws_what_captions_say() -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    drawn = held_out_scenes(64)
    images = sample(pipeline, [scene.caption for scene in drawn], seed=1, steps=12, guidance=3.0)
    right = judge(load_probe(CHECKPOINT), images, drawn)
    # Fewer captions and sampler steps than the card: a margin of two standard errors.
    for what, share in AT_LEAST.items():
        assert right[what] >= share - 2 * (share * (1 - share) / 64) ** 0.5, right


def test_its_card_states_what_it_reaches() -> None:
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    stated = {row[0]: float(row[1]) for row in re.findall(r"\| (\w+) \| \d+% \| ([\d.]+)% \|", card)}
    assert {what: stated[what] / 100 >= share for what, share in AT_LEAST.items()} == dict.fromkeys(AT_LEAST, True)


def test_the_probe_sees_what_is_drawn() -> None:
    right = probe_accuracy(load_probe(CHECKPOINT), 256)
    assert min(right.values()) >= 0.95, right


def test_its_tokenizer_is_the_one_that_training_makes() -> None:
    tokenizer = train_tokenizer()
    shipped = StableDiffusionXLPipeline.from_pretrained(CHECKPOINT).tokenizer
    assert shipped.get_vocab() == tokenizer.get_vocab()
    longest = max(len(tokenizer(scene.caption).input_ids) for scene in scenes(seed=3, count=2000))
    assert longest <= tokenizer.model_max_length


def test_text_beyond_the_world_is_spelled_and_never_ends_early() -> None:
    tokenizer = train_tokenizer()
    ids = tokenizer("A café — 日本 🙂 & Ünïcode").input_ids
    assert tokenizer.eos_token_id not in ids[:-1]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_stopped_stage_goes_on_where_it_was(tmp_path: Path, ema_decay: float) -> None:
    def trained(folder: Path, *, fails_at: int | None = None) -> Tensor:
        torch.manual_seed(0)
        network = nn.Linear(4, 1)

        def loss_of_step(step: int) -> Tensor:
            if step == fails_at:
                raise KeyboardInterrupt
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            loss: Tensor = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            return loss

        fit(
            "line", network, loss_of_step, steps=20, learning_rate=1e-2, folder=folder, ema_decay=ema_decay,
            seconds_between_checkpoints=0.0,
        )  # fmt: skip
        return network.weight

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", fails_at=13)
    assert torch.equal(trained(tmp_path / "stopped"), trained(tmp_path / "whole"))

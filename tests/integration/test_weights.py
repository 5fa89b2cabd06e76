"""Full fine-tuning: every weight of the network trains, is saved as diffusers has it, and is found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoModel
from safetensors.torch import load_file

from drtune.config import Config, load_config
from drtune.contracts import CONFIG, NETWORK, NETWORK_CONFIG, TunedModel
from drtune.errors import UserError
from drtune.models.loading import load_base
from drtune.models.tuned import open_tuned, put_on
from drtune.prompts.prepare import open_prompts
from drtune.training.processes import Processes
from drtune.training.run import Trainer
from drtune.training.trainer import train
from tests.pipelines import KINDS, FolderOf, side_of

SHORT = [
    "weights=full",
    "batch_size=2",
    "sampler.steps=4",
    "method.trained_steps=2",
    "method.early_stop=2",
    "evaluation.sampler.steps=2",
    "rewards.brightness=1.0",
]


def config_of(base: Path, *overrides: str) -> Config:
    size = [f"{name}={side_of(base.name)}" for name in ("height", "width")]
    return load_config(None, [*SHORT, *size, f"base_model={base}", *overrides])


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuned_network_is_found_again_by_diffusers_and_by_us(
    kind: str, prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    trainer = Trainer(
        config_of(folder_of(kind), "steps=2", "ema_decay=0.5"), open_prompts(prompts), tmp_path / "out", Processes()
    )
    (tmp_path / "out").mkdir()
    made = trainer.run()
    model, config = open_tuned(tmp_path / "out")
    assert model == made
    assert config == trainer.config
    assert model.files == (CONFIG, NETWORK, NETWORK_CONFIG)

    saved = load_file(tmp_path / "out" / model.weights_file)
    averages = trainer.state.average
    assert all(torch.equal(saved[name], average) for name, average in averages.items())
    network = AutoModel.from_pretrained(str(tmp_path / "out"), subfolder="network")
    assert type(network) is type(trainer.base.network)
    base = load_base(str(folder_of(kind)))
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    put_on(base, tmp_path / "out", model)
    for name, weight in base.network.named_parameters():
        assert torch.equal(weight, averages[name])
        assert torch.equal(network.get_parameter(name), averages[name])
    changed = [name for name, weight in base.network.named_parameters() if not torch.equal(weight, before[name])]
    assert len(changed) >= 0.85 * len(before)


def test_only_the_network_trains(prompts: Path, folder_of: FolderOf, tmp_path: Path) -> None:
    trainer = Trainer(config_of(folder_of("sdxl")), open_prompts(prompts), tmp_path, Processes())
    vae = {name: weight.clone() for name, weight in trainer.base.pipeline.vae.named_parameters()}
    trainer.update(1)
    assert trainer.state.weights.keys() == dict(trainer.base.network.named_parameters()).keys()
    for name, weight in trainer.base.pipeline.vae.named_parameters():
        assert torch.equal(weight, vae[name])
        assert weight.grad is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_that_train_are_kept_in_fp32_as_they_were_loaded(
    precision: str, prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    trainer = Trainer(
        config_of(folder_of("sdxl"), f"compute.precision={precision}"), open_prompts(prompts), tmp_path, Processes()
    )
    loaded = load_file(folder_of("sdxl") / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weight, loaded[name]) for name, weight in trainer.state.weights.items())
    metrics = trainer.update(1)
    assert metrics.grad_norm > 0
    assert {weight.dtype for weight in trainer.state.weights.values()} == {torch.float32}


@pytest.mark.parametrize("file", [CONFIG, NETWORK])
def test_a_model_whose_files_were_changed_is_refused(
    file: str, prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    train(config_of(folder_of("sd3"), "steps=1"), prompts, tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{path.name}: is not the one that the model's manifest names") as refusal:
        open_tuned(tmp_path / "out")
    assert "\n" not in str(refusal.value)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: cannot be read"):
        open_tuned(tmp_path / "out")
    assert TunedModel.load(tmp_path / "out").weights_file == NETWORK

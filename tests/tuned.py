"""Small tuned models of every base, without a training run: random adapters that show in the pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from drtune.config import Config, load_config
from drtune.contracts import ADAPTER, CONFIG, NETWORK
from drtune.files.local import sha256_file
from drtune.models.adapter import add_adapter, save_adapter
from drtune.models.loading import load_base
from tests.reports import tuned_model


def make_tuned(folder: Path, base_model: str, *overrides: str, strength: float = 0.1) -> Path:
    """A TunedModel folder whose weights are the base's and some noise."""
    config = load_config(None, [f"base_model={base_model}", *overrides])
    base = load_base(base_model)
    generator = torch.Generator().manual_seed(1)
    folder.mkdir()
    with torch.no_grad():
        if config.weights == "lora":
            for weight in add_adapter(base, config.lora, seed=0).values():
                weight.copy_(strength * torch.randn(weight.shape, generator=generator))
            save_adapter(base, folder / Path(ADAPTER).parent)
        else:
            (folder / NETWORK).parent.mkdir()
            noisy = {
                name: weight + strength / 2 * torch.randn(weight.shape, generator=generator)
                for name, weight in base.network.state_dict().items()
            }
            save_file(noisy, folder / NETWORK)
    write_manifest(folder, config)
    return folder


def write_manifest(folder: Path, config: Config) -> None:
    """config.yaml and manifest.json for the weights that lie in the folder."""
    (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    tuned_model(
        weights=config.weights,
        weights_sha256=sha256_file(folder / (ADAPTER if config.weights == "lora" else NETWORK)),
        base_model=config.base_model,
        step=1,
        config_sha256=sha256_file(folder / CONFIG),
    ).save(folder)

"""A tuned model taken up again: checked against its manifest, and put on its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from drtune.config import Config, load_config
from drtune.contracts import CONFIG, TunedModel

if TYPE_CHECKING:
    from drtune.models.base import Base


def open_tuned(model_folder: str | Path) -> tuple[TunedModel, Config]:
    """The manifest and the configuration of a TunedModel folder, after its files were compared with the manifest.

    Raises:
        UserError: there is no model, or its files are not those that the manifest names.
    """
    folder = Path(model_folder)
    model = TunedModel.load(folder)
    model.check_files(folder, fix="take another copy of the model")
    return model, load_config(folder / CONFIG)


def put_on(base: Base, model_folder: str | Path, model: TunedModel) -> None:
    """Make the base the tuned model: an adapter is loaded onto its network; full weights replace it, for good.

    Raises:
        UserError: the weights are damaged or not finite.
    """
    from drtune.models.tensors import load_tensors

    path = Path(model_folder) / model.weights_file
    weights, _ = load_tensors(path)
    if model.weights == "lora":
        base.pipeline.load_lora_weights(path.parent, weight_name=path.name)
    else:
        base.network.load_state_dict(weights)


def rescale(base: Base, scale: float) -> None:
    """Let the adapter that was put on count by that much: 0 is the base, 1 is what was trained."""
    base.pipeline.set_adapters(base.pipeline.get_active_adapters(), scale)


def take_off(base: Base) -> None:
    """Make the base what it was before an adapter was put on."""
    base.pipeline.unload_lora_weights()

"""What trains: a LoRA, or every weight of the base's network; made ready here, and saved as diffusers loads it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from drtune.config import Config
from drtune.contracts import ADAPTER, NETWORK, NETWORK_CONFIG
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.models.adapter import add_adapter_from, save_adapter
from drtune.models.base import Base
from drtune.models.sharding import shard, whole
from drtune.models.start import Start
from drtune.models.tensors import in_order, stream_tensors
from drtune.training.processes import Processes


def open_weights(
    base: Base, config: Config, processes: Processes, start: Start | None
) -> dict[str, torch.nn.Parameter]:
    """The weights that train, by name, in fp32; several processes share out all weights of a network among them.

    Raises:
        UserError: none of `lora.targets` is a layer of the network, the adapter to start from does not fit, or moments
            in 8 bits are to be shared out.
    """
    if config.weights == "lora":
        return add_adapter_from(base, config.lora, config.seed, start)
    base.network.requires_grad_()
    if processes.count > 1:
        if config.optimizer.eight_bit:
            raise UserError(
                f"optimizer.eight_bit=true: {processes.count} processes share out weights=full, and its moments cannot "
                "be; leave it out, or start one process"
            )
        shard(base.network, processes.device)
    return dict(base.network.named_parameters())


def save_weights(base: Base, config: Config, processes: Processes, model_folder: Path) -> Path:
    """Write the weights as they are now into the folder of a TunedModel; returns their file.

    Every process calls this, and one of them writes.
    """
    if config.weights == "full":
        _save_network(base, processes, model_folder)
        return model_folder / NETWORK
    if processes.is_main:
        with replacing(model_folder / Path(ADAPTER).parent) as written:
            save_adapter(base, written)
    return model_folder / ADAPTER


def _save_network(base: Base, processes: Processes, model_folder: Path) -> None:
    """No process ever has more than one whole tensor: each is brought together when it is its turn, and written."""
    tensors = base.network.state_dict()
    if not processes.is_main:
        for tensor in in_order(tensors).values():
            whole(tensor)
        return
    settings = json.loads(base.network.to_json_string())
    settings["_class_name"] = settings["_class_name"].removeprefix("FSDP")  # as a sharded network calls itself
    settings.pop("_name_or_path", None)  # where the base was found on this machine
    with replacing(model_folder / Path(NETWORK).parent) as written:
        written.mkdir()
        (written / Path(NETWORK_CONFIG).name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        stream_tensors(written / Path(NETWORK).name, tensors, {"format": "pt"}, whole)

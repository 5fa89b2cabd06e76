"""An adapter that exists already as the start of the one that is tuned: drtune's, diffusers' or kohya's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from drtune.config import FRESH, LoraSection
from drtune.contracts import ADAPTER
from drtune.errors import UserError
from drtune.files.given import is_on_s3, read_place
from drtune.files.local import sha256_bytes
from drtune.models.adapter import add_adapter
from drtune.models.base import Base

LARGEST = 2**33
"""Bytes of such a file: a LoRA of rank 128 on FLUX.1 has some 2 GB."""
INNER = re.compile(r"\.lora(_A|_down|\.down)\.")
"""In the name of a layer's inner matrix, whoever wrote it."""
OTHER_KINDS = re.compile(r"dora_scale|lora_magnitude_vector|hada_w|lokr_|\.diff$|\.diff_b$|lora_mid")
"""In the names of adapters that are more, or something else, than two matrices a layer."""
NAME, FILE = "start", "start.safetensors"


@dataclass(frozen=True)
class Start:
    """The file of an adapter, as it was read."""

    given: str
    """What `lora.init` says."""
    content: bytes
    sha256: str


def read_start(lora: LoraSection) -> Start | None:
    """The file that `lora.init` names, if it names one; without anything heavy, so that a mistake shows at once.

    Raises:
        UserError: there is no such file, or it is no LoRA of plain matrices in safetensors.
    """
    if lora.init in FRESH:
        return None
    shown, place = f"lora.init={lora.init!r}", lora.init
    if not is_on_s3(place) and Path(place).is_dir():
        files = (ADAPTER, Path(ADAPTER).name)
        found = [Path(place) / file for file in files if (Path(place) / file).is_file()]
        if not found:
            raise UserError(f"{shown}: holds none of {', '.join(files)}; give the file of an adapter")
        place = str(found[0])
    try:
        content = read_place(place, most=LARGEST)
    except OSError as error:
        raise UserError(
            f"{shown}: cannot be read ({error.strerror}); give {' or '.join(FRESH)}, the file of an adapter, the "
            "folder of a run, or s3://bucket/key"
        ) from None
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{shown}: is no safetensors file ({str(error).splitlines()[0]})") from None
    if other := next(filter(OTHER_KINDS.search, tensors), None):
        raise UserError(f"{shown}: holds {other}, which a LoRA of two matrices a layer has not; give a plain LoRA")
    return Start(lora.init, content, sha256_bytes(content))


def add_adapter_from(base: Base, lora: LoraSection, seed: int, start: Start | None) -> dict[str, torch.nn.Parameter]:
    """As `add_adapter`, with what `start` adds to each layer in it.

    Targets that the start has nothing for begin as fresh ones do, with no effect.

    Raises:
        UserError: the start is of another rank, or of layers that are no targets, are not there, or not tuned.
    """
    matrices = _matrices(base, start, lora) if start else {}
    weights = add_adapter(base, lora, seed)
    for layer, (inner, outer) in matrices.items():
        if f"{layer}.lora_A.default.weight" not in weights:
            ends = sorted({re.sub(r".*\.(?=\D)", "", name) for name in matrices})
            raise UserError(
                f"lora.init={lora.init!r}: has an adapter for {layer}, which is none of lora.targets; "
                f"give lora.targets={list(dict.fromkeys(ends))}"
            )
        with torch.no_grad():
            weights[f"{layer}.lora_A.default.weight"].copy_(inner)
            weights[f"{layer}.lora_B.default.weight"].copy_(outer * lora.rank / lora.alpha)
    return weights


def _matrices(base: Base, start: Start, lora: LoraSection) -> dict[str, tuple[Tensor, Tensor]]:
    """The inner and the outer matrix of each layer, whose product is added to its weight; diffusers reads the file.

    The network is without an adapter before and after.
    """
    shown = f"lora.init={start.given!r}"
    pipeline = base.pipeline
    try:
        with TemporaryDirectory() as folder:
            (Path(folder) / FILE).write_bytes(start.content)
            about = {"unet_config": base.network.config} if base.network_name == "unet" else {}
            state = pipeline.lora_state_dict(folder, weight_name=FILE, use_safetensors=True, **about)
            names = state[0] if isinstance(state, tuple) else state
            if elsewhere := next((name for name in names if not name.startswith(f"{base.network_name}.")), None):
                raise UserError(f"{shown}: holds {elsewhere}, and only the {base.network_name} is tuned; take it out")
            pipeline.load_lora_weights(folder, weight_name=FILE, adapter_name=NAME)
        layers = {
            name: module
            for name, module in base.network.named_modules()
            if isinstance(module, LoraLayer) and NAME in module.lora_A
        }
        found = {
            name: (
                layer.lora_A[NAME].weight.detach().float(),
                layer.lora_B[NAME].weight.detach().float() * layer.scaling[NAME],
            )
            for name, layer in layers.items()
        }
        pipeline.unload_lora_weights()
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:  # as diffusers finds that it does not fit
        reason = next(iter(str(error).splitlines()), "its layers have other sizes")
        raise UserError(f"{shown}: does not fit this {type(pipeline).__name__} ({reason})") from None
    in_file = sum(INNER.search(name) is not None for name in names)
    if len(found) < in_file or not found:
        raise UserError(f"{shown}: {in_file - len(found)} of its {in_file} layers are not in this base; give one of it")
    ranks = {len(inner) for inner, _ in found.values()}
    if ranks != {lora.rank}:
        fix = f"give lora.rank={min(ranks)}" if len(ranks) == 1 else "give one that has the same rank everywhere"
        raise UserError(f"{shown}: is of rank {', '.join(map(str, sorted(ranks)))}, and lora.rank={lora.rank}; {fix}")
    return found

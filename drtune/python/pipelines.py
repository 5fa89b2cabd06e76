"""A pipeline of diffusers as the name that it can be loaded by: what a tuned model says of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from drtune.errors import UserError
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.miniature import CHECKPOINT


def base_name(pipe: DiffusionPipeline, revision: str | None) -> str:
    """The name of the hub, or the folder, that a pipeline came from, if all of it is still as it is there.

    It is loaded from there and compared, since a run and all who take its adapter up load the base by its name.

    Raises:
        UserError: it came from nowhere, was changed, or is no base that can be tuned.
    """
    place = pipe.name_or_path
    fix = "save it by pipe.save_pretrained(folder), an adapter fused before, and give the folder instead"
    if not place:
        raise UserError(f"base: this {type(pipe).__name__} was not loaded from anywhere; {fix}")
    name = "miniature" if Path(place) == CHECKPOINT else str(place)
    precision = next((name for name, dtype in DTYPES.items() if dtype == pipe.dtype), "fp32")
    quiet_libraries()
    there = load_base(name, revision, precision=precision).pipeline
    for part, loaded in there.components.items():
        if loaded is not None and not _is_same(getattr(pipe, part, None), loaded):
            raise UserError(f"base: the {part} of this pipeline is not that of {name}; {fix}")
    return name


def _is_same(given: Any, loaded: Any) -> bool:
    if isinstance(loaded, torch.nn.Module):
        if not isinstance(given, torch.nn.Module):
            return False
        mine, theirs = given.state_dict(), loaded.state_dict()
        return mine.keys() == theirs.keys() and all(
            not tensor.is_meta and torch.equal(tensor.cpu(), theirs[name].to(tensor.dtype))
            for name, tensor in mine.items()
        )
    if not isinstance(loaded, type(given)):  # of which it may be a piece (Base.pieces)
        return False
    return not hasattr(loaded, "set_timesteps") or dict(given.config) == dict(loaded.config)  # else a tokenizer

"""A base from its name: the miniature, a model hub or a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import get_cached_repo_tree
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from transformers.utils import logging as transformers_logging

from drtune.errors import UserError
from drtune.files.hub import RequestError
from drtune.models.base import Base
from drtune.models.flux import Flux
from drtune.models.flux2_klein import Flux2Klein
from drtune.models.index import is_commit, read_index, unloadable
from drtune.models.miniature import CHECKPOINT
from drtune.models.qwen_image import QwenImage
from drtune.models.qwen_image_21 import QwenImage21
from drtune.models.sd3 import StableDiffusion3
from drtune.models.sdxl import StableDiffusionXL
from drtune.models.stable_diffusion import StableDiffusion
from drtune.models.z_image import ZImage

BASES: dict[str, type[Base]] = {
    base.pipeline_class.__name__: base
    for base in (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, Flux2Klein, ZImage, QwenImage, QwenImage21)
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where a process that is alone draws and scores; those of a training have their own."""


def load_base(
    base_model: str,
    revision: str | None = None,
    *,
    precision: str = "fp32",
    network_precision: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Base:
    """The base: `miniature`, a hub id (HF_TOKEN and HF_HUB_OFFLINE are honoured), or a local folder. Frozen, on CPU.

    `network_precision` is that of the network, where it is not that of the other parts.

    Raises:
        UserError: nothing can be loaded under that name, it is no base that can be tuned, or the size does not fit.
    """
    source = str(CHECKPOINT) if base_model == "miniature" else base_model
    index = read_index(base_model, revision)
    try:
        kind = index.get("_class_name")
        if kind not in BASES:
            raise UserError(f"base_model={base_model!r}: is a {kind}; one of {', '.join(BASES)} can be tuned")
        dtypes = {"default": DTYPES[precision], BASES[kind].network_name: DTYPES[network_precision or precision]}
        # Parts that it was saved without, as T5 in some copies of Stable Diffusion 3, have to be left out by name.
        absent = {name: None for name, part in index.items() if part == [None, None]}
        left_out = {**absent, **BASES[kind].load_arguments}
        pipeline = _load_pipeline(BASES[kind], source, revision, left_out, dtypes)
    except (OSError, ValueError) as error:
        raise unloadable(base_model, revision, error) from None
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return BASES[kind](pipeline, height=height, width=width)


def _load_pipeline(
    base: type[Base],
    source: str,
    revision: str | None,
    left_out: Mapping[str, None],
    dtypes: Mapping[str, torch.dtype],
) -> DiffusionPipeline:
    """The pipeline from its plain weights, or from those in half precision where it has no others."""

    def load(variant: str | None) -> DiffusionPipeline:
        folder = _folder_of(base, source, revision, left_out, variant)
        pieces = {name: piece.from_pretrained(folder, subfolder=name) for name, piece in base.pieces.items()}
        pipeline = base.pipeline_class.from_pretrained(folder, dtype=dtypes, variant=variant, **left_out, **pieces)
        pipeline.register_to_config(_name_or_path=source)  # by which others find it, too
        return pipeline

    try:
        return load(None)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            return load("fp16")
        raise


def _folder_of(
    base: type[Base], source: str, revision: str | None, left_out: Mapping[str, None], variant: str | None
) -> Path:
    """Where all files of a pipeline lie: its own folder, or that of one commit in the hub's cache.

    The hub is not asked for a commit whose files are there; without the list of them, which the hub's client keeps, it
    is. Of one that is away the cache has to do.

    Raises:
        OSError, ValueError: they cannot be had.
    """
    if (folder := Path(source)).is_dir():
        return folder
    download = partial(base.pipeline_class.download, source, revision=revision, variant=variant, **left_out)
    if is_commit(revision):
        with suppress(CachedRepoTreeNotFoundError, FileNotFoundError):
            get_cached_repo_tree(source, revision=revision)
            return Path(download(local_files_only=True))
    try:
        return Path(download())
    except RequestError:
        return Path(download(local_files_only=True))


def quiet_libraries() -> None:
    """Keep chatter and loading bars of diffusers and of what it loads off the screen; their errors stay."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for library_logging in (diffusers_logging, transformers_logging):
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()

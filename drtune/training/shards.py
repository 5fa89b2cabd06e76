"""The tensors of a checkpoint, sharded or whole: every process writes what it keeps, and reads what it needs.

torch's distributed checkpoint (DCP) plans who writes and who reads what, whatever the number of processes was and is.
Its files are safetensors files; the pickle that it can put beside them is neither written nor read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from drtune.models.tensors import stream_tensors
from drtune.training.state import TrainState


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Write this process's part of the tensors into `folder`; returns the names of its files there.

    Every process calls this. The shards go to the file one after the other, so that no more memory is needed than for
    one; a tensor that all processes have alike is written by one of them.
    """
    writer = _Writer(folder)
    with _as_itself():
        # By name: a restored optimizer has its tensors in another order, and equal states shall make equal files.
        save(dict(sorted(tensors.items())), storage_writer=writer)
    return writer.written


@torch.no_grad()
def read_shards(files: Sequence[Path], state: TrainState) -> None:
    """Read from `files`, which lie in one folder, what this process keeps of a state. Every process calls this."""
    reader = HuggingFaceStorageReader(str(files[0].parent))
    reader.fs = _These(files)
    found = cast(dict[str, TensorStorageMetadata], reader.read_metadata().state_dict_metadata)
    state.make_room({name: (tensor.size, tensor.properties.dtype) for name, tensor in found.items()})
    with _as_itself():
        load(state.tensors(), storage_reader=reader)


class _Writer(HuggingFaceStorageWriter):
    """As its base names and describes shards, but equal tensors make equal files, and nothing is gathered in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.written: list[str] = []

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the one file of this process."""
        if plan.items:
            name = f"shard-{plan.storage_data['shard_index']:05d}.safetensors"
            tensors = {item.index.fqn: cast(Tensor, planner.resolve_data(item)) for item in plan.items}
            offsets = {item.index.fqn: {SAVED_OFFSETS_KEY: item.index.offset} for item in plan.items}
            stream_tensors(Path(self.path) / name, tensors, {CUSTOM_METADATA_KEY: json.dumps(offsets)})
            self.written.append(name)
        done: Future[list[WriteResult]] = Future()
        done.set_result([])
        return done


class _These(FileSystem):
    """The files of a checkpoint, and none that may stand beside them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [str(path) for path in files]

    def ls(self, path: str | PathLike[str]) -> list[str]:  # noqa: ARG002
        """The files, wherever they are looked for."""
        return self.files


@contextmanager
def _as_itself() -> Iterator[None]:
    """Within, an error of any process is raised in all as what it is, and one process alone is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as failed:
            raise next(iter(failed.failures.values()))[0] from None

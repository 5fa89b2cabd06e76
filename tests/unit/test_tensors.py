"""Tensors in files: written one at a time, they are byte for byte what safetensors writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from drtune.errors import UserError
from drtune.models.tensors import load_tensors, metadata_of, stream_tensors

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.step": torch.tensor(3.5),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 4),
    "ä": torch.arange(3),
    "mask": torch.tensor([True, False, True]),
    "turned": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
}


def test_a_streamed_file_is_byte_for_byte_what_safetensors_writes(tmp_path: Path) -> None:
    stream_tensors(tmp_path / "file", TENSORS, {"format": "pt"})
    whole = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    assert (tmp_path / "file").read_bytes() == save(whole, {"format": "pt"})
    stream_tensors(tmp_path / "without words", TENSORS, {})
    assert (tmp_path / "without words").read_bytes() == save(whole)
    assert load_tensors(tmp_path / "without words")[1] == {}


def test_a_streamed_file_holds_what_each_tensor_is_when_it_is_its_turn(tmp_path: Path) -> None:
    turns: list[int] = []

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        turns.append(tensor.dtype.itemsize)
        return tensor + 1 if tensor.dtype == torch.float32 else tensor

    stream_tensors(tmp_path / "file", TENSORS, {"k": "v"}, whole)
    assert turns == [8, 4, 4, 4, 4, 2, 1]
    assert metadata_of(tmp_path / "file") == {"k": "v"}
    for name, tensor in load_file(tmp_path / "file").items():
        assert torch.equal(tensor, whole(TENSORS[name]))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_file_of_weights_that_are_not_finite_is_written_or_read(number: float, tmp_path: Path) -> None:
    spoilt = {"good": torch.ones(2), "up": torch.tensor([0.0, number], dtype=torch.bfloat16)}
    with pytest.raises(UserError, match=r"^up: weights that are infinite or not a number"):
        stream_tensors(tmp_path / "file", spoilt, {})
    assert not list(tmp_path.iterdir())
    save_file(spoilt, tmp_path / "theirs")
    with pytest.raises(UserError, match=r"theirs: up: weights that are infinite"):
        load_tensors(tmp_path / "theirs")

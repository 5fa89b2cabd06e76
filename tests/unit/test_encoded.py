"""Encoded prompts on disk: the bytes that the base gave, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir

import pytest
import torch
from torch import Tensor

from drtune.errors import UserError
from drtune.models.base import ENCODED_TOGETHER, EncodedPrompts
from drtune.models.loading import load_base
from drtune.models.miniature.world import scenes
from drtune.training.plan.meter import LiveBytes

TEXTS = [scene.caption for scene in scenes(seed=7, count=96)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_read_back_is_what_was_encoded_bit_for_bit(precision: str, tmp_path: Path) -> None:
    base = load_base("miniature", precision=precision)
    encoded = EncodedPrompts(base, {10 * row: text for row, text in enumerate(TEXTS[:20])}, tmp_path)
    first, last = base.encode(TEXTS[:16]), base.encode(TEXTS[16:20] + [""] * 12)
    read = encoded[[190, 0, 30, 190]]
    assert read.keys() == first.keys()
    for name, tensor in read.items():
        assert tensor.dtype == first[name].dtype
        assert torch.equal(tensor, torch.stack([last[name][3], first[name][0], first[name][3], last[name][3]]))
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_three_times_the_prompts_take_no_more_memory(tmp_path: Path) -> None:
    base = load_base("miniature")
    peaks = []
    for count in (2 * ENCODED_TOGETHER, 6 * ENCODED_TOGETHER):
        live = LiveBytes(standing=[])
        with live:
            encoded = EncodedPrompts(base, dict(enumerate(TEXTS[:count])), tmp_path)
            encoded[[0, count - 1]]
        peaks.append(live.take_peak())
    assert peaks[0] == peaks[1] > 0


class Vast:
    """A base whose conditions no disk can hold."""

    device = torch.device("cpu")

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.zeros(1).expand(len(prompts), 2**50)}


@pytest.mark.parametrize("is_given", [True, False])
def test_a_disk_without_room_is_told_before_it_is_full(is_given: bool, tmp_path: Path) -> None:
    place, fix = (tmp_path, "give another output") if is_given else (gettempdir(), "name another place in TMPDIR")
    told = rf"^{place}: 2 encoded prompts take 8388608\.0 GiB there, and its disk has .*; free some space, or {fix}$"
    with pytest.raises(UserError, match=told):
        EncodedPrompts(Vast(), {0: "a", 1: "b"}, tmp_path if is_given else None)

"""Pictures that somebody brings: giants and what is no file are named, and a batch is limited by its pixels."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from drtune.errors import UserError
from drtune.evaluation.pictures import PIXELS_AT_ONCE, UnusablePictureError, batches, matched, open_picture


def giant(path: Path, side: int) -> Path:
    """A PNG that says it has side x side pixels, and then ends."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("side", [6000, 10_000, 13_000, 20_000])
def test_a_giant_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    with pytest.raises(UnusablePictureError, match="more than 33 megapixels"):
        open_picture(giant(tmp_path / "a.png", side))


def test_a_pipe_a_loop_and_a_program_for_a_printer_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "printed.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\n")
    for path in tmp_path.iterdir():
        with pytest.raises(UnusablePictureError, match="corrupt"):
            open_picture(path)


def test_a_name_that_no_table_can_hold_is_told(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_bytes(b"image,prompt\n\xff.png,a cat\n" + b"b" * 300 + b".png,a dog\nloop.png,a fox\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/loop.png").symlink_to("loop.png")
    entries = matched(tmp_path / "images", prompts)
    assert [entry.problem for entry in entries] == ["name is not UTF-8", "missing", "missing"]
    Image.new("RGB", (8, 8)).save(os.fsencode(tmp_path / "images") + b"/\xfe.png", format="png")
    with pytest.raises(UserError, match=r"the name '\\udcfe\.png' is not UTF-8; rename the file"):
        matched(tmp_path / "images", prompts)


def test_a_batch_is_limited_by_its_pixels_and_keeps_the_order() -> None:
    small, large, giant = torch.zeros(3, 8, 8), torch.zeros(3, 2048, 3072), torch.zeros(3, 1, 1).expand(3, 5000, 5000)
    shapes = [small] * 5 + [None] * 3 + [large] * 5 + [giant] * 2
    made = list(batches(enumerate(shapes), batch_size=4))
    assert [(items, images is not None and tuple(images.shape)) for items, images in made] == [
        ([0, 1, 2, 3], (4, 3, 8, 8)),
        ([4], (1, 3, 8, 8)),
        ([5, 6, 7], False),
        ([8, 9], (2, 3, 2048, 3072)),
        ([10, 11], (2, 3, 2048, 3072)),
        ([12], (1, 3, 2048, 3072)),
        ([13], (1, 3, 5000, 5000)),
        ([14], (1, 3, 5000, 5000)),
    ]
    assert 2 * 2048 * 3072 <= PIXELS_AT_ONCE < 3 * 2048 * 3072

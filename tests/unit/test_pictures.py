"""Pictures from files: a rule for each kind; giants and what is no file are named; a batch is limited by its pixels."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drtune.errors import UserError
from drtune.evaluation.pictures import PIXELS_AT_ONCE, batches
from drtune.files.images import UnusablePictureError, open_picture, resized, to_tensor
from drtune.prompts.pictured import manifest_of, matched
from tests.words import picture

ORIENTATION = 0x0112


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
    prompts.write_bytes(b"image,prompt\n\xff.png,a cat\n" + b"b" * 300 + b".png,a dog\nloop.png,a fox\nc.png,c\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/loop.png").symlink_to("loop.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images/c.png")
    entries = matched(tmp_path / "images", prompts)
    assert [entry.problem for entry in entries] == ["name is not UTF-8", "missing", "missing", ""]
    Image.new("RGB", (8, 8)).save(os.fsencode(tmp_path / "images") + b"/\xfe.png", format="png")
    with pytest.raises(UserError, match=r"the name '\\udcfe\.png' is not UTF-8; rename the file"):
        matched(tmp_path / "images", prompts)


def test_a_folder_that_cannot_be_read_is_told_and_its_pictures_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("image,prompt\nsub/a.png,a cat\n")
    (tmp_path / "images" / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "sub" / "a.png")
    (tmp_path / "images" / "sub").chmod(0)
    try:
        if os.access(tmp_path / "images" / "sub", os.R_OK):
            pytest.skip("needs a user who may not read everywhere")
        with pytest.raises(PermissionError, match="sub"):
            matched(tmp_path / "images", tmp_path / "prompts.csv")
    finally:
        (tmp_path / "images" / "sub").chmod(0o755)


def test_a_batch_is_limited_by_its_pixels_and_keeps_the_order() -> None:
    small, large, giant = (Image.new("1", size) for size in ((8, 8), (2048, 3072), (5000, 5000)))
    pictures = [small] * 5 + [None] * 3 + [large] * 5 + [giant] * 2
    made = list(batches(enumerate(pictures), batch_size=4))
    assert made == [
        ([0, 1, 2, 3], [small] * 4),
        ([4], [small]),
        ([5, 6, 7], []),
        ([8, 9], [large] * 2),
        ([10, 11], [large] * 2),
        ([12], [large]),
        ([13], [giant]),
        ([14], [giant]),
    ]
    assert 2 * 2048 * 3072 <= PIXELS_AT_ONCE < 3 * 2048 * 3072


def read(path: Path) -> np.ndarray:
    return np.asarray(open_picture(path).convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "stored"), [(3, 180), (6, 90), (8, 270)])
def test_a_photograph_is_turned_as_its_exif_says(suffix: str, orientation: int, stored: int, tmp_path: Path) -> None:
    upright, exif = picture(40, 30), Image.Exif()
    exif[ORIENTATION] = orientation
    upright.rotate(stored, expand=True).save(tmp_path / f"turned.{suffix}", exif=exif, quality=100)
    shown = open_picture(tmp_path / f"turned.{suffix}")
    assert shown.size == (40, 30)
    corner = np.asarray(shown)[:10, :10]
    assert corner.min() > 200  # the white quarter, which lies at the upper left
    if suffix in ("png", "tif"):
        assert np.array_equal(np.asarray(shown), np.asarray(upright))


def test_of_16_bits_the_upper_eight_count_in_greys_and_colours_alike(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 30_000, 65_535]], dtype=np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert read(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_picture_whose_white_nobody_has_told_is_refused(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UnusablePictureError, match="32 bits a channel"):
        open_picture(tmp_path / "x.tif")


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for name in ("x.png", "x.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert read(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


def test_alpha_is_dropped_a_palette_looked_up_and_cmyk_mixed(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "alpha.png")
    clear = Image.new("P", (8, 8), 1)
    clear.putpalette([0, 0, 0, 10, 20, 30])
    clear.save(tmp_path / "palette.png", transparency=1)
    Image.new("CMYK", (8, 8), (245, 235, 225, 0)).save(tmp_path / "cmyk.tif")
    for name in ("alpha.png", "palette.png", "cmyk.tif"):
        assert read(tmp_path / name)[0, 0].tolist() == [10, 20, 30]
        levels = to_tensor([open_picture(tmp_path / name)]) * 255
        torch.testing.assert_close(levels[0, :, 0, 0], torch.tensor([10.0, 20.0, 30.0]))


def test_its_own_mode_is_kept_for_an_original_that_resizes_in_it(tmp_path: Path) -> None:
    for mode, name in (("P", "x.png"), ("RGBA", "x.png"), ("L", "x.png"), ("CMYK", "x.jpg")):
        Image.new(mode, (8, 8)).save(tmp_path / name)
        assert open_picture(tmp_path / name).mode == mode


def test_small_pictures_keep_their_pixels_and_large_ones_are_reduced() -> None:
    small = Image.new("RGB", (2, 1))
    small.putpixel((1, 0), (255, 0, 0))
    enlarged = resized(small, 9)
    assert enlarged.size == (8, 4)
    assert sorted(enlarged.getcolors() or []) == [(16, (0, 0, 0)), (16, (255, 0, 0))]
    assert resized(Image.new("RGB", (400, 100)), 64).size == (64, 16)


def test_a_file_of_metadata_names_pictures_only_where_there_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").touch()
    assert manifest_of("mj", tmp_path).name == "metadata.csv"
    (tmp_path / "prompts.csv").touch()
    assert manifest_of("mj", tmp_path).name == "prompts.csv"
    (tmp_path / "manifest.jsonl").touch()
    with pytest.raises(UserError, match=r"found manifest\.jsonl and prompts\.csv"):
        manifest_of("mj", tmp_path)

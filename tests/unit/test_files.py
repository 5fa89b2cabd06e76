"""Files are whole or absent, and only our own output is ever replaced."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from drtune.errors import UserError
from drtune.files.local import LARGEST_READ, claim, read_given, replacing, sha256_file, sha256_folder, write_text
from drtune.files.provenance import code_revision
from tests.conftest import REVISION


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")

    def fail_in_the_middle() -> None:
        with replacing(tmp_path / "file") as written:
            written.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with replacing(tmp_path / "folder") as written:
            written.mkdir()
            (written / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_claim_refuses_what_stands_there_and_what_is_not_ours(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert claim(taken) == taken  # an empty folder is as good as none
    (taken / "holiday.jpg").touch()
    with pytest.raises(UserError, match="exists already"):
        claim(taken)
    with pytest.raises(UserError, match="files that drtune did not write"):
        claim(taken, overwrite=True)
    (taken / "manifest.json").write_text('{"name": "a web page"}')
    (taken / "config.yaml").write_text("theme: dark\n")
    with pytest.raises(UserError, match="files that drtune did not write"):
        claim(taken, overwrite=True)
    (taken / "manifest.json").write_text('{\n  "kind": "TunedModel/1"\n}')
    assert claim(taken, overwrite=True) == taken


def test_claim_is_not_led_astray_by_a_path_through_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()
    with pytest.raises(UserError, match="exists already"):
        claim(tmp_path / "nowhere" / ".." / "model")


def test_claim_never_gives_away_what_the_output_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text('{"kind": "TunedModel/1"}')
    with pytest.raises(UserError, match="is what it would be made from"):
        claim(tmp_path / "." / "model", overwrite=True, inputs=[None, tmp_path / "model"])


def test_claim_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        claim(tmp_path / "file" / "below")


def test_digests_of_a_folder_go_by_relative_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    expected = {"a": hashlib.sha256(b"1").hexdigest(), "b/two": hashlib.sha256(b"2").hexdigest()}
    assert sha256_folder(tmp_path) == expected
    assert list(sha256_folder(tmp_path)) == ["a", "b/two"]


def test_the_revision_of_the_code_is_what_is_stated_or_else_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_revision() == REVISION
    monkeypatch.delenv("DRTUNE_CODE_REVISION")
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", code_revision() or "")


def test_only_a_regular_file_of_a_sane_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(LARGEST_READ + 2**20)
    reasons = {
        tmp_path / "pipe": "is a pipe or a device",
        Path("/dev/zero"): "is a pipe or a device",
        tmp_path: "Is a directory",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / ("a" * 300): "File name too long",
        tmp_path / "a\0b": "no file can have such a name",
        tmp_path / "a\ud800": "no file can have such a name",
        tmp_path / "giant": "has 257 MiB, at most 256 are read",
    }
    for path, reason in reasons.items():
        with pytest.raises(OSError, match=reason):
            read_given(path)
    with pytest.raises(OSError, match="is a pipe"):
        sha256_file(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_given(tmp_path / "link", most=7) == b"content"

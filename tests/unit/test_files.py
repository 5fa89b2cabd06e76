"""Files are whole or absent, whatever happens to who writes them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import drtune.files.provenance
from drtune.errors import UserError
from drtune.files.local import LARGEST_READ, read_given, replacing, sha256_file, sha256_folder, write_text
from drtune.files.provenance import code_revision
from drtune.files.scratch import clear_killed
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


def test_what_cannot_take_its_place_is_kept_and_so_is_what_stands_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")

    def put_a_folder_in_its_place() -> None:
        with replacing(tmp_path / "file") as written:
            written.mkdir()
            write_text(written / "hours", "new")

    with pytest.raises(UserError, match="cannot take its place") as told:
        put_a_folder_in_its_place()
    [kept] = [path / "file" / "hours" for path in tmp_path.iterdir() if path.name != "file"]
    assert f"it is at {kept.parent}" in str(told.value)
    assert f"what stood there before at {tmp_path / 'file'}" in str(told.value)
    assert ((tmp_path / "file").read_text(), kept.read_text()) == ("old", "new")
    write_text(tmp_path / "file", "newer")
    assert kept.exists()


def test_a_block_that_writes_nothing_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(FileNotFoundError, match="nothing was written"), replacing(tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


def test_through_a_link_it_is_what_the_link_leads_to_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").touch()
    (tmp_path / "link").symlink_to("disk")
    with replacing(tmp_path / "nowhere" / ".." / "link") as written:
        written.mkdir()
        (written / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["new"]


KILLED = """
import os, signal, sys
from pathlib import Path
from drtune.files.local import replacing
with replacing(sys.argv[1]) as written:
    written.mkdir()
    (written / "new").touch()
    if sys.argv[2] == "between":  # as _place does it
        Path(sys.argv[1]).replace(written.with_name("folder.replaced"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "found"), [("writing", "old"), ("between", "new")])
def test_what_a_killed_writer_leaves_is_gone_with_the_next_and_nothing_is_lost(
    moment: str, found: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with replacing(folder) as alive:  # at the same time, and still at it
        alive.mkdir()
        killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob(".folder.*"))) == 2
        clear_killed(folder)
        assert [path.name for path in folder.iterdir()] == [found]
        assert list(tmp_path.glob(".folder.*")) == [alive.parent]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


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


def test_a_repository_that_does_not_track_the_code_says_nothing_of_it(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    environment = {name: value for name, value in os.environ.items() if name != "DRTUNE_CODE_REVISION"}
    environment |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    installed = tmp_path / ".venv" / "provenance.py"
    installed.parent.mkdir()
    shutil.copyfile(drtune.files.provenance.__file__, installed)
    ask = (sys.executable, "-c", "import sys; sys.path[0] = '.venv'; import provenance as p; print(p.code_revision())")
    run("git", "init", "--quiet")
    run("git", "commit", "--quiet", "--allow-empty", "--message=theirs")
    assert run(*ask) == "None\n"
    run("git", "add", ".venv/provenance.py")
    run("git", "commit", "--quiet", "--message=ours")
    assert run(*ask) == run("git", "rev-parse", "HEAD")


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
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="has 1048576 MiB, at most 262144 are read"):
        sha256_file(tmp_path / "giant")
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_given(tmp_path / "link", most=7) == b"content"

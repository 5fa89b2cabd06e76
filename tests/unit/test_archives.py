"""Archives of somebody else's: what they hold is looked through before anything of it is written."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from drtune.files.archives import LARGEST_HEADER, ArchiveError, unpack

GIANT = 2**40


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def lying_zip(path: Path) -> Path:
    """The index says 10 bytes, there are 100,000."""
    zip_of(path, {"a.txt": bytes(100_000)})
    path.write_bytes(path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    return path


def zip_that_declares(path: Path, size: int) -> Path:
    zip_of(path, {"a.txt": bytes(100_000)})
    path.write_bytes(path.read_bytes().replace((100_000).to_bytes(4, "little"), size.to_bytes(4, "little")))
    return path


def tar_of(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    """The header of one member and what follows it, which need not be as long as the header says."""
    raw = member.tobuf(tarfile.GNU_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0") + bytes(1024)
    path.write_bytes(raw if path.suffix == ".tar" else gzip.compress(raw))
    return path


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: lying_zip(folder / "a.zip"), "Bad CRC-32"),
        (lambda folder: zip_that_declares(folder / "a.zip", 2**32 - 2), "would unpack to more than .* times its size"),
        (lambda folder: zip_of(folder / "a.zip", {"/etc/a": b""}), "holds '/etc/a', which is no path inside it"),
        (lambda folder: zip_of(folder / "a.zip", {"x/../../a": b""}), "which is no path inside it"),
        (lambda folder: zip_of(folder / "a.zip", {"x" * 300: b""}), "File name too long"),
        (lambda folder: tar_of(folder / "a.tar", member("a", GIANT)), "would unpack to more than .* times its size"),
        (lambda folder: tar_of(folder / "a.tgz", member("a", GIANT)), "would unpack to more than .* times its size"),
        (lambda folder: tar_of(folder / "a.tar.gz", member("../a")), "which is no path inside it"),
        (lambda folder: tar_of(folder / "a.tar", member("a", 0, tarfile.FIFOTYPE)), "is a special file"),
        (lambda folder: tar_of(folder / "a.tar", member("a", 0, tarfile.SYMTYPE, "/etc")), "absolute path"),
        (lambda folder: tar_of(folder / "a.tar", member("a\udcff.png")), r"holds 'a\\udcff.png'"),
        (
            lambda folder: tar_of(folder / "a.tgz", member("a", 2 * LARGEST_HEADER, tarfile.XHDTYPE), b"9" * 10**7),
            "a header that is too large",
        ),
        (lambda folder: tar_of(folder / "a.tar", member("a", 5000), b"short"), "unexpected end of data"),
    ],
)
def test_it_is_refused_and_nothing_of_it_is_written(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason) as raised:
        unpack(make(tmp_path), tmp_path / "folder")
    assert "\n" not in str(raised.value)
    written = [path for path in (tmp_path / "folder").iterdir() if path.stat().st_size]
    assert not written or reason in ("Bad CRC-32", "unexpected end of data")  # which only unpacking can tell
    assert sum(path.stat().st_size for path in written) <= 5000


def test_an_archive_with_nothing_in_it_gives_an_empty_folder(tmp_path: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {}), tmp_path / "folder")
    assert not any((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".TGZ"])
def test_what_is_in_order_is_unpacked(tmp_path: Path, suffix: str) -> None:
    names = ["pictures/à.png", "pictures/1 \u3000b.png"]
    archive = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        zip_of(archive, dict.fromkeys(names, b"content"))
    else:
        with tarfile.open(archive, "w" if suffix == ".tar" else "w:gz") as tar:
            for name in names:
                tar.addfile(member(name, 7), io.BytesIO(b"content"))
    unpack(archive, tmp_path / "folder")
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder/pictures").iterdir()} == {
        Path(name).name: b"content" for name in names
    }

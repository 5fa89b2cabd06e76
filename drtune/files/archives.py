"""Archives that somebody else packed: looked through before anything of them is written."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, cast

from drtune.files.local import is_text, open_given

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_MEMBERS = 200_000
SMALL_BYTES = 2**30
LARGEST_GROWTH = 20
"""An archive over SMALL_BYTES, once unpacked, may unpack to so many times its own size; pictures hardly grow."""
LARGEST_HEADER = 2**20
"""Bytes of what a tar says of a member, such as a long name, which is read at once."""


class ArchiveError(Exception):
    """An archive cannot be unpacked; the message is the reason."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into `folder`, which is made.

    Raises:
        ArchiveError: it is none or damaged; or, before anything is written: it would not fit on the disk, is far larger
            than its file, or has a member that would lie outside of the folder or is no file, folder or link in it.
    """
    folder.mkdir(parents=True)
    try:
        with open_given(archive) as file, ExitStack() as opened:
            size = archive.stat().st_size
            if archive.name.lower().endswith(".zip"):
                zipped = opened.enter_context(zipfile.ZipFile(file))
                _check(((member.filename, member.file_size) for member in zipped.infolist()), size, folder)
                zipped.extractall(folder)
            else:
                plain: IO[bytes] = file
                if not archive.name.lower().endswith(".tar"):
                    plain = cast(IO[bytes], opened.enter_context(gzip.GzipFile(fileobj=file)))
                tar = opened.enter_context(tarfile.TarFile(fileobj=cast(IO[bytes], _Tape(plain))))
                _check(((member.name, member.size) for member in tar), size, folder)
                tar.extractall(folder, filter="data")
    except OSError as error:
        raise ArchiveError(error.strerror or str(error)) from None
    except (
        EOFError,
        RuntimeError,
        ValueError,
        OverflowError,
        lzma.LZMAError,
        struct.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ArchiveError(str(error).partition("\n")[0] or type(error).__name__) from None


def _check_name(name: str) -> None:
    """Refuse a path that would lie outside of the folder into which it is written.

    Raises:
        ArchiveError: it is absolute, climbs, or is not UTF-8.
    """
    path = PurePosixPath(name)
    if not is_text(name) or path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"holds {name[:100]!a}, which is no path inside it")


def _check(members: Iterable[tuple[str, int]], size: int, folder: Path) -> None:
    """Refuse members, names with their sizes, which are taken as they are looked at."""
    room = shutil.disk_usage(folder).free
    total = 0
    for number, (name, length) in enumerate(members, start=1):
        _check_name(name)
        total += length
        if number > MOST_MEMBERS:
            raise ArchiveError(f"holds more than {MOST_MEMBERS} files")
        if total > max(SMALL_BYTES, LARGEST_GROWTH * size):
            raise ArchiveError(f"would unpack to more than {total / size:.0f} times its size, as no pictures do")
        if total > room:
            raise ArchiveError(f"would unpack to more than the {room / 2**30:.1f} GiB that are free in {folder.parent}")


class _Tape:
    """What a tar is read from, with a limit on what is read at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int) -> bytes:
        """The next bytes."""
        if count > LARGEST_HEADER:
            raise tarfile.ReadError("a header that is too large")
        return self._file.read(count)

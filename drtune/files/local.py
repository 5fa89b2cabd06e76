"""Files that are either whole or absent, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote, urlsplit

from drtune.errors import UnusableFileError, UserError
from drtune.files.scratch import aside_in, keep, scratch_beside

LARGEST_READ = 256 * 2**20
"""Bytes of the largest file that is read as a whole: two million prompts."""
LARGEST_DIGESTED = 256 * 2**30
"""Bytes of the largest file whose digest is taken, which takes minutes then: five times the largest network's."""


def is_text(name: str) -> bool:
    """Whether a name can be written everywhere: bytes that are not UTF-8 come as halves of characters."""
    return name.encode(errors="replace").decode() == name and "\0" not in name


def local_path(given: str | Path) -> Path:
    """The path that somebody gives: as it stands, or that of a file:// address."""
    is_address = str(given)[:5].lower() == "file:"
    return Path(unquote(urlsplit(str(given)).path)) if is_address else Path(given)


def open_given(path: str | Path) -> BufferedReader:
    """Open a file that a user names. A pipe or a device is refused: it would block, or never end.

    Raises:
        OSError: it cannot be opened or is no regular file, or no file can have such a name; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:  # a NUL, or half of a character
        raise UnusableFileError(errno.EINVAL, "no file can have such a name", ascii(path)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UnusableFileError(errno.EINVAL, "is a pipe or a device", str(path))


def read_given(path: str | Path, *, most: int = LARGEST_READ) -> bytes:
    """The content of a file that a user names.

    Raises:
        OSError: as `open_given`, or it has more than `most` bytes.
    """
    with open_given(path) as file:
        _refuse_larger(file, path, most)
        return file.read()


def _refuse_larger(file: BufferedReader, path: str | Path, most: int) -> None:
    if (size := os.fstat(file.fileno()).st_size) > most:
        reason = f"has {size / 2**20:.0f} MiB, at most {most / 2**20:.0f} are read"
        raise UnusableFileError(errno.EFBIG, reason, str(path))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a fresh path beside `path` to write a file or a folder at; on success it takes the place of `path`.

    A reader sees the old content or the new, never a part; after an error the old content stands untouched. Through a
    link it is what the link leads to that is replaced.

    Raises:
        UserError: the new content is written and cannot take its place; old and new are both kept.
    """
    path = Path(os.path.realpath(path))
    with scratch_beside(path) as scratch:
        written = scratch / path.name
        yield written
        _place(written, path)


def _place(written: Path, path: Path) -> None:
    aside = aside_in(written.parent, path)
    if not os.path.lexists(written):
        raise FileNotFoundError(errno.ENOENT, "nothing was written to replace it", str(path))
    try:
        if path.is_dir():
            # A folder cannot be replaced in one call: the old one steps aside first.
            path.replace(aside)
        written.replace(path)
    except OSError as error:
        keep(written.parent)
        with suppress(OSError):
            aside.replace(path)
        raise UserError(
            f"output {path}: what was written cannot take its place ({error.strerror}); it is at {written}, and what "
            f"stood there before at {aside if aside.exists() else path}: move one of them"
        ) from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")


def sha256_bytes(content: bytes) -> str:
    """The digest of `content` in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """The digest of a file's content in hex; raises as `digest_of`."""
    return digest_of(path, "sha256")


def digest_of(path: str | Path, kind: str) -> str:
    """The digest of that kind, `md5`, `sha256` or another of hashlib's, of a file's content in hex.

    Raises:
        OSError: as `open_given`, or it has more than LARGEST_DIGESTED bytes.
    """
    with open_given(path) as file:
        _refuse_larger(file, path, LARGEST_DIGESTED)
        return hashlib.file_digest(file, kind).hexdigest()


def files_below(folder: str | Path) -> list[Path]:
    """Every file below `folder`, at any depth, sorted; none when there is no such folder.

    Raises:
        OSError: a folder cannot be read. `Path.rglob` and a bare `os.walk` would leave out what is in it.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # one that is gone meanwhile
            raise error

    walked = os.walk(folder, onerror=refuse)
    return sorted(path for where, _, names in walked for name in names if (path := Path(where) / name).is_file())


def check_key(uri: str, key: str) -> str:
    """The key of a store, if a file of its name can stand below a folder, and nowhere else.

    Raises:
        UserError: it is absolute, holds `..`, `.`, `//` or NUL, or is empty.
    """
    if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise UserError(f"storage {uri}: the key {key!r} is no path below it; delete or rename what it names")
    return key


def sha256_folder(folder: str | Path) -> dict[str, str]:
    """The digest of every file below `folder`, by its path relative to it with forward slashes, in sorted order."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files_below(folder)}


def check_sha256(path: str | Path, named: str, *, owner: str, fix: str, shown: str | None = None) -> None:
    """Refuse a file whose sha256 is not the one that its `owner` names: a manifest, ...

    Raises:
        UserError: it is another one, or cannot be read; the message ends with the `fix`. It calls the file `shown`,
            which is where the user finds it, if that is not `path`.
    """
    try:
        found = sha256_file(path)
    except OSError as error:
        raise UserError(f"{shown or path}: cannot be read ({error.strerror}); {fix}") from None
    check_digest(shown or str(path), found, named, owner=owner, fix=fix)


def check_digest(shown: str, found: str, named: str, *, owner: str, fix: str) -> None:
    """Refuse what has the digest `found`, as `check_sha256`."""
    if found != named:
        raise UserError(
            f"{shown}: is not the one that {owner} names, but changed or damaged (digest {found[:12]}..., named is "
            f"{named[:12]}...); {fix}"
        )

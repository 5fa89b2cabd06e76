"""Files that are either whole or absent, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from drtune.errors import UnusableFileError, UserError

MARKS = {"manifest.json": '"kind": "', "config.yaml": "base_model: ", "pipeline.log": ""}
"""An output folder of ours has one of these files, with these words in it; no other folder is ever replaced."""

LARGEST_READ = 256 * 2**20
"""Bytes of the largest file that is read as a whole: two million prompts."""


def is_text(name: str) -> bool:
    """Whether a name can be written everywhere: bytes that are not UTF-8 come as halves of characters."""
    return name.encode(errors="replace").decode() == name and "\0" not in name


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
        if (size := os.fstat(file.fileno()).st_size) > most:
            reason = f"has {size / 2**20:.0f} MiB, at most {most / 2**20:.0f} are read"
            raise UnusableFileError(errno.EFBIG, reason, str(path))
        return file.read()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a fresh path beside `path` to write a file or a folder at; on success it takes the place of `path`.

    A reader sees the old content or the new, never a part; after an error the old content stands untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        yield written
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one call: the old one steps aside first.
            path.replace(Path(scratch) / "replaced")
        written.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")


def sha256_bytes(content: bytes) -> str:
    """The digest of `content` in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """The digest of a file's content in hex."""
    with open_given(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def claim(path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Check that output may go to `path`: its folder can be written, and nothing is there unless `overwrite`.

    What it is made from, the `inputs`, is never replaced.

    Raises:
        UserError: something stands there already, with `overwrite` something else than our own output; or the place
            cannot be written to.
    """
    path = Path(path)
    try:  # first of all: without its parent, a path through `..` would seem to be free
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"output {path}: cannot be written ({error.strerror}); give another place") from None
    for given in inputs:
        if given is not None and os.path.realpath(given) == os.path.realpath(path):
            raise UserError(f"output {path}: is what it would be made from; give another place")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"output {path}: is no file and no folder, which is never replaced; give another place")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not overwrite:
            raise UserError(f"output {path}: exists already; give --overwrite to replace it, or another place")
        if path.is_dir() and not _is_ours(path):
            raise UserError(f"output {path}: holds files that drtune did not write; give another place")
    return path


def _is_ours(folder: Path) -> bool:
    return any(
        (folder / mark).is_file() and words.encode() in (folder / mark).read_bytes() for mark, words in MARKS.items()
    )

"""Folders that somebody names: one here, one in an archive, or one on S3, which are fetched and unpacked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from drtune.errors import UserError
from drtune.files.archives import ARCHIVES, ArchiveError, unpack
from drtune.files.given import is_on_s3
from drtune.files.storage import Storage, open_storage


def check_place(key: str, place: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a place where there is nothing, without fetching anything.

    Args:
        key: what the place was given as.
        place: a folder or an archive: a path, or s3://bucket/prefix.
        environment: what the keys of S3 are read from.

    Raises:
        UserError: there is nothing at the place, or it is no archive.
    """
    if Path(place).is_dir():
        return
    if is_on_s3(place):
        storage, last = _stored(place, environment)
        if not (storage.has(last) if last.lower().endswith(ARCHIVES) else storage.keys(last)):
            raise UserError(f"{key}={place}: nothing is stored there; correct the place")
    else:
        _check_archive(key, Path(place))


def check_file(key: str, place: str) -> None:
    """Refuse a path, or the address of a file on S3, where there is nothing, without fetching it.

    Args: as `check_place`.

    Raises:
        UserError: there is nothing.
    """
    storage, last = _stored(place, os.environ) if is_on_s3(place) else (None, "")
    if not (storage.has(last) if storage else Path(place).exists()):
        raise UserError(f"{key}={place}: is not there; correct the place")


@contextmanager
def opened(key: str, place: str, environment: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """The folder; what lies on S3 or in an archive is fetched and unpacked for as long as it is needed.

    Args and Raises: as `check_place`; also if it cannot be reached or unpacked.
    """
    if Path(place).is_dir():
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(place)
        if is_on_s3(place):
            path = _fetched(key, place, Path(scratch) / "fetched", environment)
        yield path if path.is_dir() else _unpacked(key, path, Path(scratch) / "unpacked")


def _fetched(key: str, uri: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """A local copy of what lies on S3: the one file of that name, or all files below it."""
    storage, last = _stored(uri, environment)
    keys = [last] if last.lower().endswith(ARCHIVES) else storage.keys(last)
    for name in keys:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.download(name, folder / name)
        except FileNotFoundError:
            keys = []
    if not keys:
        raise UserError(f"{key}={uri}: nothing is stored there; correct the place")
    return folder / last


def _stored(uri: str, environment: Mapping[str, str]) -> tuple[Storage, str]:
    """The storage around a place on S3, and the name of the archive or folder in it."""
    parent, _, last = uri.rstrip("/").rpartition("/")
    return open_storage(parent, environment), last


def _check_archive(key: str, path: Path) -> None:
    """Refuse what is no archive, or not there."""
    if not path.name.lower().endswith(ARCHIVES):
        raise UserError(f"{key}={path}: is no folder and no {', '.join(ARCHIVES)}; give one of these")
    if not path.exists():
        raise UserError(f"{key}={path}: is not there; correct the place")


def _unpacked(key: str, archive: Path, folder: Path) -> Path:
    _check_archive(key, archive)
    try:
        unpack(archive, folder)
    except ArchiveError as error:
        raise UserError(f"{key}={archive}: cannot be unpacked ({error}); take another copy") from None
    return _only_folder(folder)


def _only_folder(folder: Path) -> Path:
    """What an archive holds: its one folder, if there is nothing beside it."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder

"""What a setting gives: the path of a file, the address of one on S3, or its text itself."""

from __future__ import annotations

from pathlib import Path

from drtune.files.local import LARGEST_READ, read_given
from drtune.files.storage import open_storage


def is_text_itself(given: str | Path) -> bool:
    """Whether it is the text of a file: it has several lines, or is a mapping in braces."""
    return isinstance(given, str) and ("\n" in given or given.startswith("{"))


def is_on_s3(given: str | Path) -> bool:
    """Whether it is the address of something on S3."""
    return str(given).startswith("s3://")


def is_on_hub(given: str | Path) -> bool:
    """Whether it is the address of something on the Hugging Face hub; a Path has one slash in the place of its two."""
    return str(given).startswith("hf:/")


def shown_place(given: str | Path) -> str:
    """How messages call it, in one line."""
    if not is_text_itself(given):
        return str(given)
    start = str(given).strip().splitlines()[0][:40]
    return f"given as text ({start!r}...)"


def read_place(given: str | Path, *, most: int = LARGEST_READ) -> bytes:
    """Its content.

    Args:
        given: a path, s3://bucket/key, or the text itself.
        most: bytes that a file here may have.

    Raises:
        UserError: S3 cannot be read with the keys of the environment.
        OSError: as `read_given`, or there is no such object.
    """
    if is_text_itself(given):
        return str(given).encode()
    if is_on_s3(given):
        folder, _, name = str(given).rpartition("/")
        return open_storage(folder).read(name)
    return read_given(given, most=most)

"""The files of your own rewards: where they are, and their copies in a tuned model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from drtune.config import REWARDS
from drtune.errors import UserError
from drtune.files.local import read_given, replacing, sha256_bytes, sha256_file

KEPT = "rewards"
"""Folder of a tuned model in which the files of your own rewards are kept."""


def file_of(name: str, model_folder: Path | None = None) -> Path:
    """The file of your own reward: as kept in a tuned model's folder if it is there, else where its name says."""
    file = Path(name.rpartition(":")[0])
    if model_folder is not None and (kept := model_folder / KEPT / file.name).exists():
        return kept
    return file


def keep_files(names: Iterable[str], model_folder: Path) -> dict[str, str]:
    """Copy the files of your own rewards to `model_folder`; returns their sha256 by path in there.

    Raises:
        UserError: a file cannot be read, or another one of its name is kept already.
    """
    digests = {}
    for name in names:
        if name in REWARDS:
            continue
        file = file_of(name)
        content = read_own(name, file)
        path = f"{KEPT}/{file.name}"
        digests[path] = sha256_bytes(content)
        kept = model_folder / path
        if not kept.exists():
            with replacing(kept) as written:
                written.write_bytes(content)
        elif sha256_file(kept) != digests[path]:
            raise UserError(
                f"reward {name}: {file} differs from {kept}, which this run has kept; resume with the same file, "
                "start again with --overwrite instead of --resume, or give different files different names"
            )
    return digests


def check_own(names: Iterable[str], model_folder: Path | None = None) -> None:
    """Refuse the name of a reward of your own that cannot be loaded, before anything heavy; `file_of` says its file.

    Raises:
        UserError: the file cannot be read, or the function's name stands nowhere in it.
    """
    for name in names:
        if name not in REWARDS:
            file, function = file_of(name, model_folder), name.rpartition(":")[2]
            named = rf"(?<!\w){re.escape(function)}(?!\w)|import \*"
            if not re.search(named, read_own(name, file).decode(errors="replace")):
                raise UserError(f"reward {name}: {file} has no {function}; name a function that is there")


def read_own(name: str, file: Path) -> bytes:
    """The source of your own reward.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return read_given(file)
    except OSError as error:
        raise UserError(f"reward {name}: {file} cannot be read ({error.strerror}); give the path of a file") from None

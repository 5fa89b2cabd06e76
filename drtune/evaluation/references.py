"""References: a folder or an archive of pictures with their prompts, held against the prompts of the evaluation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drtune.errors import UserError
from drtune.evaluation.pictures import matched
from drtune.evaluation.places import check_archive, stored
from drtune.files.archives import ARCHIVES, ArchiveError, unpack
from drtune.files.local import sha256_bytes, sha256_file
from drtune.prompts.prepare import Prompt
from drtune.prompts.records import SUFFIXES
from drtune.prompts.shots import Shot

MANIFESTS = ("manifest", "prompts")
"""Names, before the suffix, of the file that tells which picture has which prompt."""


class Unused(NamedTuple):
    """A picture of a reference that is not used, or a prompt without one, and why."""

    image: str
    prompt: str
    problem: str


@dataclass(frozen=True)
class ReferencePictures:
    """The pictures of a reference that answer to prompts of the evaluation, and what is wrong with the others."""

    by_prompt: dict[str, list[Path]]
    """By the prompt's text, letter case aside."""
    sha256: str
    """Of which pictures belong to which prompts, in their order."""
    problems: Sequence[Unused]

    def of(self, shot: Shot) -> Path | None:
        """The picture of a shot, if there is one."""
        paths = self.by_prompt.get(shot.prompt.text.casefold(), [])
        return paths[shot.picture] if shot.picture < len(paths) else None


@contextmanager
def opened(name: str, place: str, environment: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """The folder of a reference; what lies on S3 or in an archive is fetched and unpacked for as long as it is needed.

    Args:
        name: of the reference.
        place: a folder or an archive: a path, or s3://bucket/prefix.
        environment: what the keys of S3 are read from.

    Raises:
        UserError: there is nothing, it cannot be reached, or it is no archive.
    """
    if Path(place).is_dir():
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(place)
        if place.startswith("s3://"):
            path = _fetched(name, place, Path(scratch) / "fetched", environment)
        yield path if path.is_dir() else _unpacked(name, path, Path(scratch) / "unpacked")


def _fetched(name: str, uri: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """A local copy of what lies on S3: the one file of that name, or all files below it."""
    storage, last = stored(uri, environment)
    keys = [last] if last.lower().endswith(ARCHIVES) else storage.keys(last)
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.download(key, folder / key)
        except FileNotFoundError:
            keys = []
    if not keys:
        raise UserError(f"reference {name}={uri}: nothing is stored there; correct the place")
    return folder / last


def _unpacked(name: str, archive: Path, folder: Path) -> Path:
    check_archive(name, archive)
    try:
        unpack(archive, folder)
    except ArchiveError as error:
        raise UserError(f"reference {name}={archive}: cannot be unpacked ({error}); take another copy") from None
    return _only_folder(folder)


def find_pictures(name: str, folder: Path, prompts: Sequence[Prompt], pictures_per_prompt: int) -> ReferencePictures:
    """Take the first pictures of each prompt, and name every other one with the reason.

    Reasons are: missing (it is named and not there), surplus (no prompt names it, or it is beyond those that are shown
    of one), duplicate (the same content as one before), not evaluated (its prompt is not among those of the
    evaluation), or what is wrong with the prompt's record. A prompt without a picture is named as well.

    Raises:
        UserError: no file tells which picture has which prompt, or not one picture can be used.
    """
    entries = matched(folder, _manifest(name, folder))
    found: dict[str, dict[str, Path]] = {prompt.text.casefold(): {} for prompt in prompts}
    seen: set[str] = set()
    problems = []
    for entry in entries:
        taken = found.get(entry.prompt.casefold())
        digest = "" if entry.problem else sha256_file(folder / entry.image)
        if problem := entry.problem or _problem(taken, digest in seen, pictures_per_prompt):
            problems.append(Unused(entry.image, entry.prompt, problem))
        elif taken is not None:
            taken[digest] = folder / entry.image
            seen.add(digest)
    if not seen:
        reasons = ", ".join(sorted({unused.problem for unused in problems})) or "it names none"
        raise UserError(
            f"reference {name}: not one of its {len(entries)} pictures answers to a prompt of the evaluation "
            f"({reasons}); see that its prompts are those of the prompt set's held-out part"
        )
    problems += [Unused("", prompt.text, "no picture") for prompt in prompts if not found[prompt.text.casefold()]]
    digest = sha256_bytes(repr([(key, list(taken)) for key, taken in found.items()]).encode())
    return ReferencePictures({key: list(taken.values()) for key, taken in found.items()}, digest, problems)


def _problem(taken: Mapping[str, Path] | None, is_duplicate: bool, pictures_per_prompt: int) -> str:
    """Why a picture that is there is not used, if so; `taken` are those that its prompt has already."""
    if taken is None:
        return "not evaluated"
    if is_duplicate:
        return "duplicate"
    return "surplus" if len(taken) == pictures_per_prompt else ""


def _manifest(name: str, folder: Path) -> Path:
    """The file that tells which picture has which prompt."""
    candidates = [folder / f"{stem}{suffix}" for stem in MANIFESTS for suffix in SUFFIXES]
    present = [path for path in candidates if path.is_file()]
    if len(present) != 1:
        found = " and ".join(path.name for path in present) or "none"
        raise UserError(
            f"reference {name}: wanted one file of prompts in {folder.name}/ and found {found}; give it a manifest.csv "
            f"with the columns image and prompt (or {', '.join(SUFFIXES)})"
        )
    return present[0]


def _only_folder(folder: Path) -> Path:
    """What an archive holds: its one folder, if there is nothing beside it."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder

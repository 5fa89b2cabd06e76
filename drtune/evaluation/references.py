"""References: a folder or an archive of pictures with their prompts, held against the prompts of the evaluation."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drtune.errors import UserError
from drtune.evaluation.shots import Shot
from drtune.files import sha256_bytes, sha256_file
from drtune.pictures import matched
from drtune.prompts import Prompt
from drtune.records import SUFFIXES

MANIFESTS = ("manifest", "prompts")
"""Names, before the suffix, of the file that tells which picture has which prompt."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Unused(NamedTuple):
    """A picture of a reference that is not used, or a prompt without one, and why."""

    image: str
    prompt: str
    problem: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of a reference that answer to prompts of the evaluation, and what is wrong with the others."""

    by_prompt: dict[str, list[Path]]
    """By the prompt's text, letter case aside."""
    sha256: str
    problems: Sequence[Unused]

    def of(self, shot: Shot) -> Path | None:
        """The picture of a shot, if there is one."""
        paths = self.by_prompt.get(shot.prompt.text.casefold(), [])
        return paths[shot.picture] if shot.picture < len(paths) else None


@contextmanager
def unpacked(name: str, place: Path) -> Iterator[Path]:
    """The folder of a reference; an archive is unpacked into a scratch folder for as long as it is needed.

    Raises:
        UserError: there is nothing, or it is no archive.
    """
    if place.is_dir():
        yield place
        return
    if not place.name.lower().endswith(ARCHIVES):
        raise UserError(f"reference {name}={place}: is no folder and no {', '.join(ARCHIVES)}; give one of these")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            shutil.unpack_archive(place, scratch, filter=None if place.suffix.lower() == ".zip" else "data")
        except (OSError, shutil.ReadError, tarfile.TarError, EOFError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(f"reference {name}={place}: cannot be unpacked ({reason}); take another copy") from None
        yield _only_folder(Path(scratch))


def find_pictures(name: str, folder: Path, prompts: Sequence[Prompt], pictures_per_prompt: int) -> Pictures:
    """Take the first pictures of each prompt, and name every other one with the reason.

    Reasons are: missing (it is named and not there), surplus (no prompt names it, or it is beyond those that are shown
    of one), duplicate (the same content as one before), not evaluated (its prompt is not among those of the
    evaluation), or what is wrong with the prompt's record. A prompt without a picture is named as well.

    Raises:
        UserError: no file tells which picture has which prompt, or not one picture can be used.
    """
    entries = matched(folder, _manifest(name, folder))
    wanted = {prompt.text.casefold(): prompt.text for prompt in prompts}
    found: dict[str, list[Path]] = {}
    digests: set[str] = set()
    problems = []
    for entry in entries:
        key = entry.prompt.casefold()
        paths = found.setdefault(key, []) if key in wanted else None
        problem = entry.problem or _problem(paths, pictures_per_prompt)
        if not problem:
            digest = sha256_file(folder / entry.image)
            problem = "duplicate" if digest in digests else ""
            digests.add(digest)
        if problem:
            problems.append(Unused(entry.image, entry.prompt, problem))
        elif paths is not None:
            paths.append(folder / entry.image)
    if not digests:
        reasons = ", ".join(sorted({unused.problem for unused in problems})) or "it names none"
        raise UserError(
            f"reference {name}: not one of its {len(entries)} pictures answers to a prompt of the evaluation "
            f"({reasons}); see that its prompts are those of the prompt set's held-out part"
        )
    problems += [Unused("", text, "no picture") for key, text in wanted.items() if not found.get(key)]
    return Pictures(found, sha256_bytes("".join(sorted(digests)).encode()), problems)


def _problem(paths: list[Path] | None, pictures_per_prompt: int) -> str:
    if paths is None:
        return "not evaluated"
    return "surplus" if len(paths) == pictures_per_prompt else ""


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

"""References: a folder or an archive of pictures with their prompts, held against the prompts of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drtune.errors import UserError
from drtune.files.local import sha256_bytes, sha256_file
from drtune.prompts.pictured import manifest_of, matched
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import Shot


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


def find_pictures(name: str, folder: Path, prompts: Sequence[Prompt], pictures_per_prompt: int) -> ReferencePictures:
    """Take the first pictures of each prompt, and name every other one with the reason.

    Reasons are: missing (it is named and not there), surplus (no prompt names it, or it is beyond those that are shown
    of one), duplicate (the same content as one before), not evaluated (its prompt is not among those of the
    evaluation), or what is wrong with the prompt's record. A prompt without a picture is named as well.

    Raises:
        UserError: no file tells which picture has which prompt, or not one picture can be used.
    """
    entries = matched(folder, manifest_of(f"reference {name}", folder))
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

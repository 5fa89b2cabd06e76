"""Pictures with their prompts: which belongs to which in a folder, and what is wrong with the others."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtune.errors import UserError
from drtune.files.local import files_below, is_text
from drtune.prompts.prepare import PicturePrompt, content_of, parse_pictures
from drtune.prompts.records import IMAGE_FIELDS, SUFFIXES

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files with these endings are pictures."""
MANIFESTS = ("manifest", "prompts")
"""Names, before the suffix, of the file that tells which picture has which prompt."""
HUB_MANIFEST = "metadata"
"""As data sets of the hub name it; it counts where there is no other, since it may be about anything."""


@dataclass(frozen=True)
class Entry:
    """A picture by its path in a folder, what it was asked for with, and why it cannot be used, if so."""

    image: str
    prompt: str = ""
    category: str = ""
    problem: str = ""


def matched(images: Path, prompts: Path, *, by_order: bool = False) -> list[Entry]:
    """An entry for each prompt of the file, with its picture; then one for each picture that no prompt names.

    A picture is named by its path in the folder, whichever field says it.

    Args:
        images: the folder.
        prompts: a file as for `drtune prompts`.
        by_order: no field names the pictures: in the order of their names, in which numbers count as numbers, they
            belong to the prompts in theirs.

    Raises:
        UserError: the folder or the file cannot be read, no field names pictures that are there, or `by_order` is asked
            for where one does, or where there are not as many pictures as prompts.
        OSError: a folder below cannot be read.
    """
    if not images.is_dir():
        raise UserError(f"images {images}: is no folder; give the folder that holds the pictures")
    records = parse_pictures(content_of(prompts), str(prompts))
    files = {path.relative_to(images).as_posix() for path in files_below(images)}
    present = sorted((name for name in files if name.lower().endswith(PICTURES)), key=_natural)
    if unreadable := [name for name in present if not is_text(name)]:
        raise UserError(f"images {images}: the name {unreadable[0]!a} is not UTF-8; rename the file")
    folder = images.resolve().name
    field = _naming_field(folder, files, records)
    if field is None:
        return _in_order(images, prompts, present, records, asked=by_order)
    if by_order:
        raise UserError(f"prompts {prompts}: {field} names the pictures, so that their order does not count")
    entries = []
    for record in records:
        image = _path(folder, files, record.fields.get(field, ""))
        if not is_text(image):
            image, problem = ascii(image), "name is not UTF-8"
        elif not image:
            problem = f"no image named in {record.where}"
        elif record.refused:
            problem = f"prompt: {record.refused}"
        else:
            problem = _where(images, files, image)
        entries.append(Entry(image, record.text, record.category, problem))
    named = {entry.image for entry in entries}
    return entries + [Entry(image, problem="surplus") for image in present if image not in named]


def _naming_field(folder: str, files: set[str], records: Sequence[PicturePrompt]) -> str | None:
    """The field that names the most files that are there, one of IMAGE_FIELDS first; None if none does."""
    counts = Counter(
        field for record in records for field, value in record.fields.items() if _path(folder, files, value) in files
    )
    return max(counts, key=lambda field: (field in IMAGE_FIELDS, counts[field]), default=None)


def _path(folder: str, files: set[str], name: str) -> str:
    """The path in the folder that a table means: written as on Windows, too, or from outside of the folder."""
    path = name and posixpath.normpath(name.replace("\\", "/"))
    parts = path.split("/")
    inside = ("/".join(parts[i + 1 :]) for i, part in enumerate(parts) if part == folder)
    return path if path in files else next((rest for rest in inside if rest in files), path)


def _in_order(
    images: Path, prompts: Path, present: Sequence[str], records: Sequence[PicturePrompt], *, asked: bool
) -> list[Entry]:
    """Pictures and prompts, each in their order."""
    names = [(field, record.fields[field]) for record in records for field in IMAGE_FIELDS if record.fields.get(field)]
    if names:
        field, name = names[0]
        raise UserError(
            f"prompts {prompts}: nothing that its {field} names (first {name[:80]!r}) is a file in {images}; "
            "name pictures by their paths in that folder"
        )
    if not asked:
        raise UserError(
            f"prompts {prompts}: no field names pictures of {images}; add a column image with their names (without "
            "one, `drtune score --by-order` takes both in their order)"
        )
    if len(records) != len(present):
        raise UserError(
            f"images {images}: {len(present)} pictures for {len(records)} prompts in {prompts}, so that their "
            "order does not tell which belong together; add a column image with the pictures' names"
        )
    return [
        Entry(image, record.text, record.category, record.refused and f"prompt: {record.refused}")
        for image, record in zip(present, records, strict=True)
    ]


def manifest_of(key: str, folder: Path) -> Path:
    """The file that tells which picture of a folder has which prompt; `key` is what the folder was given as.

    Raises:
        UserError: there is none, or more than one.
    """

    def found_as(*stems: str) -> list[Path]:
        paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
        return [path for path in paths if path.is_file()]

    present = found_as(*MANIFESTS) or found_as(HUB_MANIFEST)
    if len(present) != 1:
        found = " and ".join(path.name for path in present) or "none"
        raise UserError(
            f"{key}: wanted one file of prompts in {folder.name}/ and found {found}; give it a manifest.csv "
            f"with the columns image and prompt (or {', '.join(SUFFIXES)})"
        )
    return present[0]


def _where(folder: Path, files: set[str], image: str) -> str:
    """What is wrong with the place of a picture, if anything: a manifest of somebody else's may name any file."""
    if not Path(os.path.realpath(folder / image)).is_relative_to(os.path.realpath(folder)):
        return "outside of the folder"
    return "" if image in files else "missing"


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts numbers in names as numbers: 2.png before 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)], name

"""Prompts: from a file as users bring it to a checked, de-duplicated set that is split once and for all.

    prompts.csv -> manifest.json (a PromptSet), prompts.jsonl (what was taken), problems.jsonl (what was not, and why),
                   near_duplicates.jsonl (held-out prompts that are nearly the same as one to train on)

Nothing is dropped silently: every record of the source is either taken or stands in problems.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from drtune.contracts import DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.local import check_digest, read_given, replacing, sha256_bytes
from drtune.files.output import claimed
from drtune.prompts.likeness import canonical, near_duplicates
from drtune.prompts.records import (
    CATEGORY_FIELDS,
    SPLIT_FIELDS,
    SPLITS,
    TEXT_FIELDS,
    Record,
    field_name,
    read_records,
)

MAX_CHARACTERS = 2000
"""Longest prompt that is taken, after normalisation; text encoders read far less."""
EVAL_FRACTION = 1 / 6
"""Share of prompts that is held out for evaluation."""
PROMPTS = "prompts.jsonl"
PROBLEMS = "problems.jsonl"
NEAR_DUPLICATES = "near_duplicates.jsonl"

Split = Literal["train", "eval"]


@dataclass(frozen=True)
class Prompt:
    """What an image is asked for with, and the category that scores are broken down by ("" for none)."""

    text: str
    category: str


@dataclass(frozen=True)
class PicturePrompt(Prompt):
    """What a picture was asked for with, its record's fields of text, and why the prompt is not taken, if so."""

    where: str
    fields: Mapping[str, str]
    """By `field_name`; one of them may name the picture."""
    refused: str


@dataclass(frozen=True)
class Problem:
    """A record that was not taken: `where` is its line in a text file, else its position, both counted from 1."""

    where: str
    reason: str
    excerpt: str


@dataclass(frozen=True)
class StatedPrompt(Prompt):
    """A prompt with the side that its source states, which may be none that is known, or else that its hash gives."""

    split: str


@dataclass(frozen=True)
class SplitPrompt(Prompt):
    """A prompt with the side that it belongs to."""

    split: Split


@dataclass(frozen=True)
class PreparedPrompts:
    """A PromptSet folder as it was when it was read: its manifest, and each side in the order of the source."""

    folder: Path
    prompt_set: PromptSet
    train: tuple[Prompt, ...]
    eval: tuple[Prompt, ...]


@dataclass(frozen=True)
class Gathered:
    """Prompts of any number of files, what of theirs was not taken, and where they came from."""

    prompts: Sequence[StatedPrompt]
    problems: Sequence[Problem]
    source: DataSource
    num_files: int = 1


class _RefusedError(Exception):
    """One record is not taken; the message is the reason."""


def prepare(
    source: str | Path | Gathered,
    out: str | Path,
    *,
    data: DataSource | None = None,
    added: Gathered | None = None,
    held_out: bool = False,
    overwrite: bool = False,
) -> PromptSet:
    """Read, check, de-duplicate and split the prompts of `source` into a PromptSet folder at `out`.

    Args:
        source: A file with one of `SUFFIXES`, in UTF-8; or prompts that were read before.
        out: Folder that is written, whole or not at all.
        data: Where the file came from, if it stands for another one than itself, as a version of data under DVC does.
        added: More prompts, as those that came in since. Each is split by its hash, or stands where another spelling of
            it stands in the source.
        held_out: All prompts are to evaluate on, as those of a benchmark are.
        overwrite: Replace what stands at `out`.

    Raises:
        UserError: the file cannot be read as what its suffix says, has no field with prompts, or yields no prompt for
            train or for eval; or `out` cannot be written.
    """
    inputs = [] if isinstance(source, Gathered) else [source]
    with claimed(out, "PromptSet", overwrite=overwrite, inputs=inputs) as out:
        given = source if isinstance(source, Gathered) else _read(source, data)
        prompts, problems, data = list(given.prompts), list(given.problems), given.source
        if added:
            _add(added, prompts, problems)
        if held_out:
            prompts = [replace(prompt, split="eval") for prompt in prompts]
        _check_split(prompts, problems, data.path, {"eval"} if held_out else {"train", "eval"})

        lines = _to_jsonl(map(asdict, prompts))
        train, held = ([prompt.text for prompt in prompts if prompt.split == side] for side in ("train", "eval"))
        near = near_duplicates(held, train)
        prompt_set = PromptSet(
            sha256=sha256_bytes(lines),
            num_train=len(train),
            num_eval=len(held),
            near_duplicates=len(near),
            categories=dict(sorted(Counter(prompt.category for prompt in prompts).items())),
            problems=_count(problems),
            source=data,
            added=added.source if added else None,
        )
        with replacing(out) as folder:
            folder.mkdir()
            (folder / PROMPTS).write_bytes(lines)
            (folder / PROBLEMS).write_bytes(_to_jsonl(map(asdict, problems)))
            (folder / NEAR_DUPLICATES).write_bytes(_to_jsonl(pair._asdict() for pair in near))
            prompt_set.save(folder)
        return prompt_set


def open_prompts(folder: str | Path) -> PreparedPrompts:
    """Read a PromptSet folder.

    Raises:
        UserError: the folder is no PromptSet, or its prompts are not those that the manifest states.
    """
    path = Path(folder) / PROMPTS
    prompt_set = PromptSet.load(folder)
    try:
        lines = read_given(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); prepare the prompts again") from None
    check_digest(
        str(path),
        sha256_bytes(lines),
        prompt_set.sha256,
        owner="the prompt set's manifest",
        fix="prepare the prompts again",
    )
    sides: dict[Split, list[Prompt]] = {"train": [], "eval": []}
    rows = TypeAdapter(SplitPrompt)
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            row = rows.validate_json(line)
        except ValidationError:
            raise UserError(f"{path}: line {number} holds no prompt; prepare the prompts again") from None
        sides[row.split].append(Prompt(row.text, row.category))
    return PreparedPrompts(Path(folder), prompt_set, tuple(sides["train"]), tuple(sides["eval"]))


def split_of(text: str) -> Split:
    """Choose the side of a prompt by its own hash alone, so that adding prompts never moves others.

    Case, punctuation and spaces do not count: a prompt to train on is not held out in another spelling.
    """
    digest = hashlib.sha256(canonical(text).encode()).digest()
    return "eval" if int.from_bytes(digest[:8], "big") < EVAL_FRACTION * 2**64 else "train"


def parse(content: bytes, name: str, *, column: str | None = None) -> tuple[list[StatedPrompt], list[Problem]]:
    """Take or refuse each record of a prompts file: the two lists add up to its records.

    Args:
        content: The whole file.
        name: What the file is called in errors; its suffix decides how the content is read.
        column: The field that holds the prompt, in any case; None: the first of TEXT_FIELDS that is filled.

    Raises:
        UserError: the file as a whole cannot be read as what its suffix says, or has no column with prompts.
    """
    texts = (field_name(column),) if column else TEXT_FIELDS
    prompts: dict[str, StatedPrompt] = {}
    problems = []
    for record in read_records(content, name, texts):
        try:
            prompt = _taken(record, texts)
            if prompts.setdefault(prompt.text.casefold(), prompt) is not prompt:
                raise _RefusedError("duplicate")
        except _RefusedError as refused:
            problems.append(Problem(record.where, str(refused), str(record.value)[:100]))
    return list(prompts.values()), problems


def joined(parsed: Mapping[str, tuple[list[StatedPrompt], list[Problem]]]) -> tuple[list[StatedPrompt], list[Problem]]:
    """Each different prompt of several files, and what was not taken, from what `parse` gave by the file's name."""
    prompts: dict[str, StatedPrompt] = {}
    problems = []
    for name, (taken, refused) in parsed.items():
        problems += [replace(problem, where=f"{name}: {problem.where}") for problem in refused]
        for prompt in taken:
            if prompts.setdefault(prompt.text.casefold(), prompt) is not prompt:
                problems.append(Problem(name, "duplicate", prompt.text[:100]))
    return list(prompts.values()), problems


def _read(source: str | Path, data: DataSource | None) -> Gathered:
    content = content_of(source)
    data = data or DataSource(path=str(source), sha256=sha256_bytes(content))
    return Gathered(*parse(content, data.path), data)


def _add(added: Gathered, prompts: list[StatedPrompt], problems: list[Problem]) -> None:
    """Add what is new to the prompts, and what is not taken to the problems."""
    problems += added.problems
    known = {prompt.text.casefold() for prompt in prompts}
    sides = {canonical(prompt.text): prompt.split for prompt in prompts}
    for prompt in added.prompts:
        if prompt.text.casefold() in known:
            problems.append(Problem(added.source.path, "duplicate", prompt.text[:100]))
        else:
            side = sides.get(canonical(prompt.text)) or split_of(prompt.text)
            prompts.append(StatedPrompt(prompt.text, prompt.category, side))


def content_of(prompts: str | Path) -> bytes:
    """What a file with prompts holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return read_given(prompts)
    except OSError as error:
        raise UserError(f"prompts {prompts}: cannot be read ({error.strerror}); give the path of a file") from None


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, in any of the formats of `drtune prompts`, each once.

    Raises:
        UserError: it cannot be read, or holds no prompt.
    """
    prompts, _ = parse(content_of(path), str(path))
    if not prompts:
        raise UserError(f"prompts {path}: holds no prompt that can be used; give one a line")
    return [prompt.text for prompt in prompts]


def parse_pictures(content: bytes, name: str) -> list[PicturePrompt]:
    """The prompt of each picture, in the order of the file and as often as it stands there; blank lines do not count.

    Args and Raises: as `parse`.
    """
    pictures = []
    for record in read_records(content, name):
        if record.value == "":
            continue
        given = _fields(record.value) if isinstance(record.value, Mapping) else {}
        fields = {name: value.strip() for name, value in given.items() if isinstance(value, str)}
        try:
            prompt = _taken(record)
            pictures.append(PicturePrompt(prompt.text, prompt.category, record.where, fields, refused=""))
        except _RefusedError as refused:
            pictures.append(PicturePrompt("", "", record.where, fields, str(refused)))
    return pictures


def _taken(record: Record, texts: Sequence[str] = TEXT_FIELDS) -> StatedPrompt:
    """Check one record: a string, or a mapping of fields whose names count in any case."""
    if record.refused:
        raise _RefusedError(record.refused)
    value = record.value
    if isinstance(value, str):
        value = {texts[0]: value}
    if not isinstance(value, Mapping):
        raise _RefusedError("wrong type")
    fields = _fields(value)
    if (text := _first(fields, texts)) is None:
        raise _RefusedError("no text field")
    if not (text := _clean(text)):
        raise _RefusedError("empty")
    category = _clean(_category(_first(fields, CATEGORY_FIELDS)))
    stated = str(_first(fields, SPLIT_FIELDS, default="")).strip()
    return StatedPrompt(text, category, SPLITS.get(stated.casefold(), stated) or split_of(text))


def _category(value: object) -> str:
    """A category as text: 3.0 is "3", as a table with gaps writes it, and a list is its parts, as in "a, b"."""
    if value is None or value != value:  # NaN is what pandas has for none
        return ""
    if isinstance(value, list):
        return ", ".join(map(_category, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise _RefusedError("category of the wrong type")


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    return {field_name(key): content for key, content in record.items()}


def _first(fields: Mapping[str, Any], names: Iterable[str], default: Any = None) -> Any:
    """Return what the first of the named fields that is filled holds; else the first that is not null."""
    held = [fields[name] for name in names if fields.get(name) is not None]
    return next((value for value in held if str(value).strip()), held[0] if held else default)


# Bytes that are not UTF-8 are decoded to lone surrogates; U+FFFD stands where another program already lost some.
_NOT_DECODED = re.compile(r"[\ud800-\udfff\ufffd]")
# Everything of Unicode's class Cc but tab, newlines and feeds, which are white space.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


# A byte order mark, as where files were joined, and a space without width: not seen, they would part equal prompts.
_UNSEEN = str.maketrans("\ufeff\u200b", "  ")


def _clean(value: object) -> str:
    """Normalise to NFC with single spaces, and refuse what no text encoder should see."""
    if not isinstance(value, str):
        raise _RefusedError("wrong type")
    if _NOT_DECODED.search(value):
        raise _RefusedError("wrong encoding")
    if _CONTROL.search(value):
        raise _RefusedError("control characters")
    text = " ".join(unicodedata.normalize("NFC", value.translate(_UNSEEN)).split())
    if len(text) > MAX_CHARACTERS:
        raise _RefusedError("too long")
    return text


def _check_split(prompts: list[StatedPrompt], problems: list[Problem], name: str, wanted: set[Split]) -> None:
    """Refuse a set without prompts, with a split that is not known, or without any on a side that is wanted."""
    if not prompts:
        counts = ", ".join(f"{number} {reason}" for reason, number in _count(problems).items()) or "no records at all"
        raise UserError(f"prompts {name}: not one usable prompt ({counts}); give a UTF-8 file with a prompt a record")
    sides = {prompt.split for prompt in prompts}
    for unknown in sorted(sides - {"train", "eval"}):
        raise UserError(
            f"prompts {name}: split {unknown[:40]!r} is not known; name a split train, or eval, test, val or "
            f"validation for what is held out"
        )
    for missing in wanted - sides:
        raise UserError(
            f"prompts {name}: none of its {len(prompts)} prompts is for {missing}; add prompts (about 1 in "
            f"{1 / EVAL_FRACTION:.0f} is for eval), or give records a field split that says train or eval"
        )


def _count(problems: list[Problem]) -> dict[str, int]:
    return dict(sorted(Counter(problem.reason for problem in problems).items()))


def _to_jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()

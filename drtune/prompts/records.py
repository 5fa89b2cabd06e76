"""Records of a prompts file, whatever its format: strings, or fields with their values, each with its place."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from drtune.errors import UserError

TEXT_FIELDS = ("text", "prompt", "caption", "texts", "prompts", "captions")
"""Names of the field that holds the prompt, in any case; the first that is filled counts."""
CATEGORY_FIELDS = ("category", "style", "tag")
"""Names of the field that holds the category; `tag` is GenEval's."""
SPLIT_FIELDS = ("split",)
"""Name of the field that says the side of a prompt, one of SPLITS, and so overrides the hash."""
SPLITS = {"train": "train", "eval": "eval", "test": "eval", "val": "eval", "validation": "eval"}
"""The side that each name of a split means."""
IMAGE_FIELDS = ("image", "image_name", "image_path", "file", "file_name", "filename")
"""Names of the field that holds the name of a picture's file, where prompts are of pictures that there are."""
KNOWN_FIELDS = (*TEXT_FIELDS, *CATEGORY_FIELDS, *SPLIT_FIELDS, *IMAGE_FIELDS)
MOST_RECORDS = 5_000_000
SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Record:
    """One record as it stands in the source: `value` is a string or a mapping of fields, if all is well."""

    where: str
    value: object
    refused: str = ""
    """Why it is none of its format, if so; `value` is then its raw text."""


def read_records(content: bytes, name: str, texts: Sequence[str] = TEXT_FIELDS) -> Iterator[Record]:
    """The records of a file, in their order; of a table, one of its columns must be one of `texts`.

    Raises:
        UserError: it cannot be read as what its suffix says, or has no column with prompts; while it is read, too.
    """
    match suffix := Path(name).suffix.lower():
        case ".txt":
            return (Record(f"line {number}", line) for number, line in _lines(content, name))
        case ".csv":
            return _read_table(_quoted_rows(content, name, ","), name, texts)
        case ".tsv":
            return _read_table(_tsv_rows(content, name), name, texts)
        case ".json":
            return _read_json(content, name)
        case ".jsonl":
            return (_read_json_line(number, line) for number, line in _lines(content, name))
        case ".parquet":
            return _read_parquet(content, name, texts)
    raise UserError(f"prompts {name}: unknown suffix {suffix!r}; give a file that ends in {', '.join(SUFFIXES)}")


def _decode(content: bytes, name: str) -> str:
    """Decode a file; a byte that is not UTF-8 becomes a lone surrogate, which `_clean` refuses in its record."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"prompts {name}: is in UTF-16; save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")


def _lines(content: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; they end where an editor ends them, unlike those of `str.splitlines`."""
    for number, line in enumerate(io.StringIO(_decode(content, name), newline=None), start=1):
        yield number, line.removesuffix("\n")


def _quoted_rows(content: bytes, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table whose writer quotes, each with the number of its first line."""
    # Strict: a quote that is never closed would otherwise swallow the rest of the file in silence.
    reader = csv.reader(io.StringIO(_decode(content, name), newline=None), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"prompts {name}: line {start} is not CSV ({error}); quote a prompt with commas or quotes and write "
            f'its quotes as "", or save the file as .tsv, where quotes need nothing'
        ) from None


_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def _tsv_rows(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table whose writer may quote, as spreadsheets and pandas do, or may not, as most scripts.

    A prompt may begin with a quote of its own. So the file is one that quotes only if it is so as a whole, without a
    tab inside of quotes, where it would be the rest of a line; else a field is quoted if it is so from end to end.
    """
    try:
        rows = list(_quoted_rows(content, name, "\t"))
    except UserError:
        rows = []
    if rows and not any("\t" in field for _, row in rows for field in row):
        return iter(rows)
    return ((number, [_unquoted(field) for field in line.split("\t")]) for number, line in _lines(content, name))


def _unquoted(field: str) -> str:
    quoted = _QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _read_table(rows: Iterator[tuple[int, list[str]]], name: str, texts: Sequence[str]) -> Iterator[Record]:
    """Read a table whose first row names the columns; every row comes with the number of its first line."""
    _, header = next(rows, (1, []))
    _check_columns(header, name, texts)
    for number, row in rows:
        where = f"line {number}"
        if len(row) > len(header):
            yield Record(where, " | ".join(row), "more fields than columns")
        else:
            yield Record(where, dict(zip(header, row, strict=False)) if any(row) else "")


def _check_columns(columns: list[str], name: str, texts: Sequence[str]) -> None:
    names = [field_name(column) for column in columns]
    for known in {*KNOWN_FIELDS, *texts}:
        if names.count(known) > 1:
            raise UserError(f"prompts {name}: {names.count(known)} columns {known!r}; rename those that do not count")
    if not set(names).intersection(texts):
        found = shorten(ascii(", ".join(columns)), 100, placeholder=" ...")
        raise UserError(f"prompts {name}: no column {', '.join(texts[:3])} (columns: {found}); name the column so")


def _read_json(content: bytes, name: str) -> Iterator[Record]:
    try:
        records = json.loads(_decode(content, name), object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise UserError(f"prompts {name}: not valid JSON ({error}); for one object a line name it .jsonl") from None
    if isinstance(records, dict):
        # The manifest of a SampleSet names its pictures, COCO its annotations, each with what it was asked for.
        holders = [key for key in ("pictures", "annotations", *TEXT_FIELDS) if isinstance(records.get(key), list)]
        if holders:
            records = records[holders[0]]
        elif records and all(isinstance(part, list) for part in records.values()):
            return _read_parts(records)
    if not isinstance(records, list):
        raise UserError(
            f"prompts {name}: holds one {type(records).__name__}; give a list of strings or objects, or such a list by "
            f"category"
        )
    return (Record(f"record {number}", value) for number, value in enumerate(records, start=1))


def _read_parts(parts: dict[str, list[Any]]) -> Iterator[Record]:
    """Read lists by category, as HPSv2's styles are, or by split."""
    field = "split" if set(parts) <= set(SPLITS) else "category"
    for part, values in parts.items():
        for number, value in enumerate(values, start=1):
            fields = {"text": value} if isinstance(value, str) else value
            yield Record(f"record {number} of {part}", {field: part} | fields if isinstance(fields, dict) else value)


def _read_json_line(number: int, line: str) -> Record:
    where = f"line {number}"
    if not line.strip():
        return Record(where, "")
    try:
        return Record(where, json.loads(line, object_pairs_hook=_unambiguous))
    except _TwoFieldsError as error:
        return Record(where, line, str(error))
    except (ValueError, RecursionError):
        return Record(where, line, "not JSON")


class _TwoFieldsError(ValueError):
    """An object has two fields of one name."""


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these fields; JSON itself would keep the last of two with one name, in any case."""
    names = [field_name(key) for key, _ in pairs]
    for known in KNOWN_FIELDS:
        if names.count(known) > 1:
            raise _TwoFieldsError(f"two fields {known!r}")
    return dict(pairs)


def _read_parquet(content: bytes, name: str, texts: Sequence[str]) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > MOST_RECORDS:  # a few bytes can say so many
            raise UserError(f"prompts {name}: holds more than {MOST_RECORDS} records; give fewer")
        schema = file.schema_arrow
        _check_columns(schema.names, name, texts)
        # Data sets come with columns of images, which are not to be read; any column of text may hold their names.
        wanted = {*texts, *CATEGORY_FIELDS, *SPLIT_FIELDS}
        columns = [
            field.name
            for field in schema
            if field_name(field.name) in wanted or field.type in (pa.string(), pa.large_string())
        ]
        rows = file.read(columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:  # dates out of range among them
        raise UserError(f"prompts {name}: not valid Parquet ({' '.join(str(error).split())})") from None
    return (Record(f"record {number}", value) for number, value in enumerate(rows, start=1))


def field_name(key: str) -> str:
    """The name by which a field is known, whatever its case."""
    return key.strip().casefold()

"""Records of a prompts file, whatever its format: strings, or fields with their values, each with its place."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from drtune.errors import UserError

TEXT_FIELDS = ("text", "prompt", "caption")
"""Names of the field that holds the prompt, in any case, the first that is present counts."""
CATEGORY_FIELDS = ("category", "style")
"""Names of the field that holds the category."""
SPLIT_FIELDS = ("split",)
"""Name of the field that says train or eval and so overrides the hash."""
IMAGE_FIELDS = ("image", "file")
"""Names of the field that holds the name of a picture's file, where prompts are of pictures that there are."""
MOST_RECORDS = 5_000_000
SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Record:
    """One record as it stands in the source: `value` is a string or a mapping of fields, if all is well."""

    where: str
    value: object
    refused: str = ""
    """Why it is none of its format, if so; `value` is then its raw text."""


def read_records(content: bytes, name: str) -> Iterator[Record]:
    """The records of a file, in their order.

    Raises:
        UserError: it cannot be read as what its suffix says, or has no column with prompts; while it is read, too.
    """
    match suffix := Path(name).suffix.lower():
        case ".txt":
            return (Record(f"line {number}", line) for number, line in _lines(content, name))
        case ".csv":
            return _read_csv(content, name)
        case ".tsv":
            # Quotes are plain characters here: prompts are full of them, and a tab cannot stand in a prompt anyway.
            rows = ((number, line.split("\t")) for number, line in _lines(content, name))
            return _read_table(rows, name)
        case ".json":
            return _read_json(content, name)
        case ".jsonl":
            return (_read_json_line(number, line) for number, line in _lines(content, name))
        case ".parquet":
            return _read_parquet(content, name)
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


def _read_csv(content: bytes, name: str) -> Iterator[Record]:
    # Strict: a quote that is never closed would otherwise swallow the rest of the file in silence.
    reader = csv.reader(io.StringIO(_decode(content, name), newline=None), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
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

    return _read_table(rows(), name)


def _read_table(rows: Iterator[tuple[int, list[str]]], name: str) -> Iterator[Record]:
    """Read a table whose first row names the columns; every row comes with the number of its first line."""
    _, header = next(rows, (1, []))
    _check_columns(header, name)
    for number, row in rows:
        where = f"line {number}"
        if len(row) > len(header):
            yield Record(where, " | ".join(row), "more fields than columns")
        else:
            yield Record(where, dict(zip(header, row, strict=False)) if any(row) else "")


def _check_columns(columns: list[str], name: str) -> None:
    if not {field_name(column) for column in columns}.intersection(TEXT_FIELDS):
        found = shorten(ascii(", ".join(columns)), 100, placeholder=" ...")
        raise UserError(f"prompts {name}: no column {', '.join(TEXT_FIELDS)} (columns: {found}); name the column so")


def _read_json(content: bytes, name: str) -> Iterator[Record]:
    try:
        records = json.loads(_decode(content, name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"prompts {name}: not valid JSON ({error}); for one object a line name it .jsonl") from None
    if isinstance(records, dict) and isinstance(pictures := records.get("pictures"), list):
        records = pictures  # the manifest of a SampleSet names its pictures with their prompts
    if not isinstance(records, list):
        raise UserError(f"prompts {name}: holds one {type(records).__name__}; give a list of strings or objects")
    return (Record(f"record {number}", value) for number, value in enumerate(records, start=1))


def _read_json_line(number: int, line: str) -> Record:
    where = f"line {number}"
    if not line.strip():
        return Record(where, "")
    try:
        return Record(where, json.loads(line))
    except (ValueError, RecursionError):
        return Record(where, line, "not JSON")


def _read_parquet(content: bytes, name: str) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > MOST_RECORDS:  # a few bytes can say so many
            raise UserError(f"prompts {name}: holds more than {MOST_RECORDS} records; give fewer")
        schema = file.schema_arrow
        _check_columns(schema.names, name)
        # Data sets come with columns of images, which are not to be read; columns of their names are.
        wanted = {*TEXT_FIELDS, *CATEGORY_FIELDS, *SPLIT_FIELDS}
        columns = [field.name for field in schema if field_name(field.name) in wanted]
        columns += [
            field.name
            for field in schema
            if field_name(field.name) in IMAGE_FIELDS and field.type in (pa.string(), pa.large_string())
        ]
        rows = file.read(columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:  # dates out of range among them
        raise UserError(f"prompts {name}: not valid Parquet ({' '.join(str(error).split())})") from None
    return (Record(f"record {number}", value) for number, value in enumerate(rows, start=1))


def field_name(key: str) -> str:
    """The name by which a field is known, whatever its case."""
    return key.strip().casefold()

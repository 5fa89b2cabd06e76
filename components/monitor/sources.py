"""What is compared: prompts and scores, from files here or in S3."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

import numpy as np

from drtune.config import is_reward
from drtune.contracts import BESIDE_REWARDS, MANIFEST, TABLES, DataSource, Observed
from drtune.errors import UserError
from drtune.files.given import is_on_s3
from drtune.files.local import local_path, sha256_bytes
from drtune.files.storage import Storage, open_storage
from drtune.prompts.prepare import PROMPTS, Gathered, Problem, StatedPrompt, joined, open_prompts, parse
from drtune.prompts.records import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

OURS = BESIDE_REWARDS | {"contestant", "prompt", "category", "picture", "image", "problem"}
"""Columns of our own tables of scores that describe the picture, or measure something else than a reward."""
CANDIDATE = "candidate"
"""The contestant of an evaluation whose scores are those of the release."""


@dataclass(frozen=True)
class Scores:
    """A column of finite numbers or NaN for each reward, a row for each picture, and where they came from."""

    table: pd.DataFrame
    observed: Observed


def read_prompts(side: Literal["reference", "incoming", "prompts"], uri: str) -> Gathered:
    """Read every different prompt of a file, of all prompts files below a folder, or of a PromptSet.

    Args:
        side: Of a PromptSet that is the reference only the training half is read: it is what was trained on.
        uri: A file with a suffix that `drtune prompts` takes, or a folder: a path, file:// or s3://bucket/prefix.

    A file below a folder that is no prompts file is counted as a problem; an S3 prefix with nothing below it is empty.

    Raises:
        UserError: there is no such file or folder, it cannot be reached, or the one file that was named, or the
            PromptSet, cannot be read.
    """
    if _is_file(uri, SUFFIXES):
        content = _read_file(side, uri)
        return Gathered(*parse(content, uri), DataSource(path=uri, sha256=sha256_bytes(content)))
    storage = _open_folder(side, uri)
    keys = storage.keys()
    if {MANIFEST, PROMPTS}.issubset(keys):
        return _read_prompt_set(side, storage, uri)
    parsed = {}
    digests: dict[str, str] = {}
    unread: list[Problem] = []
    for key in keys:
        if Path(key).suffix.lower() not in SUFFIXES:
            unread.append(Problem(key, "not a prompts file", ""))
            continue
        try:
            content = storage.read(key)
        except OSError as error:  # it was removed since, or is no object to be read
            unread.append(Problem(key, "file that cannot be read", str(error)))
            continue
        digests[key] = sha256_bytes(content)
        try:
            parsed[key] = parse(content, key)
        except UserError as error:
            print(f"{side} {uri}: {error}")
            unread.append(Problem(key, "file that cannot be read", str(error)))
    prompts, refused = joined(parsed)
    source = DataSource(path=uri, sha256=sha256_bytes(json.dumps(digests).encode()))
    return Gathered(prompts, unread + refused, source, num_files=len(digests))


def _read_prompt_set(side: str, storage: Storage, uri: str) -> Gathered:
    with tempfile.TemporaryDirectory() as folder:
        for name in (MANIFEST, PROMPTS):
            storage.download(name, Path(folder) / name)
        prepared = open_prompts(folder)
    sides = {"train": prepared.train} if side == "reference" else {"train": prepared.train, "eval": prepared.eval}
    prompts = [StatedPrompt(one.text, one.category, split) for split, some in sides.items() for one in some]
    return Gathered(prompts, [], DataSource(path=uri, sha256=prepared.prompt_set.sha256))


def observed(read: Gathered) -> Observed:
    """What a verdict tells of prompts."""
    problems = Counter(problem.reason for problem in read.problems)
    return _observed(read.source.path, read.source.sha256, read.num_files, len(read.prompts), problems)


def read_scores(side: str, uri: str, named: Collection[str] = ()) -> Scores:
    """Read a table of `drtune score`, or the scores.parquet of an evaluation, of which the candidate's rows count.

    Any other column of numbers, as an index or a seed, is counted as a problem.

    Args:
        side: What the table is called in errors.
        uri: A .csv or .parquet file: a path, file:// or s3://.
        named: Columns that are rewards, beside those with a name that `drtune score` writes.

    Raises:
        UserError: the file cannot be read as what its suffix says.
    """
    import pandas as pd

    if not _is_file(uri, TABLES):
        raise UserError(f"{side} {uri}: wanted a table, a file that ends in {' or '.join(TABLES)}")
    content = _read_file(side, uri)
    read = pd.read_parquet if uri.lower().endswith(".parquet") else pd.read_csv
    try:
        table = read(io.BytesIO(content)).rename(columns=str)
    except (ValueError, OSError) as error:  # those of pyarrow and of the CSV reader are ValueErrors
        raise UserError(f"{side} {uri}: cannot be read as a table ({' '.join(str(error).split())})") from None
    problems: Counter[str] = Counter()
    if "contestant" in table:
        table = table[table["contestant"] == CANDIDATE]
    elif "problem" in table:
        reasons = table["problem"].fillna("").astype(str)
        problems.update(reasons[reasons != ""])
        table = table[reasons == ""]
    rewards = {}
    for name in [name for name in table.columns if name not in OURS]:
        if not (name in named or is_reward(name)):
            problems[f"column {name} that is no known reward"] += 1
        elif pd.api.types.is_numeric_dtype(table[name]):
            rewards[name] = table[name].astype(float).where(np.isfinite)
        else:
            problems[f"column {name} that is not of numbers"] += 1
    table = pd.DataFrame(rewards, index=table.index).reset_index(drop=True)
    return Scores(table, _observed(uri, sha256_bytes(content), 1, len(table), problems))


def _observed(uri: str, sha256: str, num_files: int, count: int, problems: Counter[str]) -> Observed:
    return Observed(
        source=uri,
        sha256=sha256,
        num_files=num_files,
        count=count,
        used=count,
        problems=dict(sorted(problems.items())),
    )


def _is_file(uri: str, suffixes: tuple[str, ...]) -> bool:
    """Whether the name is that of such a file; a folder here may have any name."""
    return Path(uri).suffix.lower() in suffixes and not local_path(uri).is_dir()


def _read_file(side: str, uri: str) -> bytes:
    parent, slash, name = uri.rpartition("/")
    storage = open_storage(parent + slash or ".")
    try:
        return storage.read(unquote(name) if uri.startswith("file:") else name)
    except FileNotFoundError:
        raise UserError(f"{side} {uri}: not there; give the path of a file, or of a folder with files") from None


def _open_folder(side: str, uri: str) -> Storage:
    storage = open_storage(uri)
    if not is_on_s3(uri) and not local_path(uri).is_dir():
        raise UserError(
            f"{side} {uri}: no such folder, and no file that ends in {', '.join(SUFFIXES)}; give one of them, or "
            f"s3://bucket/prefix"
        )
    return storage

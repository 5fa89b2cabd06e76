"""Scores of pictures from anywhere: a table with a row a picture and a column a reward, written as they are read.

What is refused is refused before torch is imported.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from drtune.config import reward_name
from drtune.contracts import TABLES
from drtune.errors import UserError
from drtune.evaluation.pictures import batches, reward_columns
from drtune.files.images import UnusablePictureError, open_picture, to_tensor
from drtune.files.local import replacing
from drtune.files.output import claimed
from drtune.files.progress import Progress
from drtune.prompts.pictured import Entry, matched
from drtune.rewards import Reward, load_reward
from drtune.rewards.files import check_own


@dataclass
class ScoringSummary:
    """What was scored and what was not, and what the scores hang on."""

    provenance: dict[str, str]
    num_scored: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Pictures that were not scored, by the reason."""

    def add(self, batch: Sequence[Entry], columns: Mapping[str, Sequence[float]]) -> None:
        """Count a batch, with its scores by reward, or with none."""
        for entry in batch:
            if entry.problem:
                self.problems.setdefault(entry.problem, []).append(entry.image)
            else:
                self.num_scored += 1
        for name, values in columns.items():
            self.sums[name] += sum(values)

    @property
    def means(self) -> dict[str, float]:
        """By reward, over the pictures that were scored."""
        return {name: total / self.num_scored for name, total in self.sums.items()}


def score_pictures(
    images: str | Path,
    prompts: str | Path,
    names: Sequence[str],
    out: str | Path,
    *,
    by_order: bool = False,
    antialias: bool = True,
    checkpoints: Mapping[str, str] | None = None,
    batch_size: int = 16,
    overwrite: bool = False,
) -> ScoringSummary:
    """Score the pictures below the folder `images` by the rewards `names` and write the table `out`.

    Args:
        images: a folder, with folders in it or not.
        prompts: a file as for `drtune prompts`, with a field that names the picture of each prompt.
        names: of REWARDS, or your own as `file.py:function`.
        out: .csv or .parquet, with the columns image, prompt, category, one a reward, and problem: "", or why the row
            has no scores (missing, corrupt, surplus, or what is wrong with the prompt).
        by_order: there is no such field, and the pictures in the order of their names belong to the prompts in theirs.
        antialias: whether the rewards that resize in floating point do so with antialias.
        checkpoints: by reward, files or folders with weights in place of the published ones.
        batch_size: pictures at once; only pictures of one size are scored together, and of large ones fewer.
        overwrite: replace what stands at `out`.

    Raises:
        UserError: something given cannot be used, no picture can be scored, or a score is not finite.
    """
    images, prompts, out = Path(images), Path(prompts), Path(out)
    with claimed(out, None, overwrite=overwrite, inputs=[images, prompts]) as out:
        if out.suffix not in TABLES:
            raise UserError(f"output {out}: is no table; give a file that ends in {' or '.join(TABLES)}")
        names = [_checked(name) for name in dict.fromkeys(names)]
        check_own(names)
        given = checkpoints or {}
        if surplus := given.keys() - names:
            raise UserError(f"--checkpoint {min(surplus)}: is not scored by; name it in --reward as well")
        entries = matched(images, prompts, by_order=by_order)
        if not any(not entry.problem for entry in entries):
            raise UserError(
                f"images {images}: none of its pictures has a prompt in {prompts}; see that the names agree"
            )
        rewards = [load_reward(name, antialias=antialias, checkpoint=given.get(name)) for name in names]
        return _write_table(images, entries, rewards, out, batch_size)


def _write_table(
    images: Path, entries: Sequence[Entry], rewards: Sequence[Reward], out: Path, batch_size: int
) -> ScoringSummary:
    names = [reward.name for reward in rewards]
    summary = ScoringSummary({reward.name: reward.provenance for reward in rewards}, sums=dict.fromkeys(names, 0.0))
    with (
        replacing(out) as written,
        _table(written, names, summary.provenance) as write,
        Progress("score", len(entries), "image") as progress,
    ):
        for batch, pictures in batches((_opened(images, entry) for entry in entries), batch_size):
            columns = _batch_scores(rewards, pictures, batch) if pictures else {}
            rows = [{name: values[index] for name, values in columns.items()} for index in range(len(batch))]
            write([asdict(entry) | row for entry, row in zip(batch, rows, strict=True)])
            summary.add(batch, columns)
            progress.update(len(batch))
        if not summary.num_scored:
            raise UserError(f"images {images}: not one of its pictures can be opened; give others")
    return summary


def _checked(name: str) -> str:
    try:
        return reward_name(name)
    except ValueError as error:
        raise UserError(f"--reward: {error}") from None


def _opened(folder: Path, entry: Entry) -> tuple[Entry, Image.Image | None]:
    """The entry and its picture, or the entry with its problem."""
    if entry.problem:
        return entry, None
    try:
        return entry, open_picture(folder / entry.image)
    except UnusablePictureError as unusable:
        return replace(entry, problem=str(unusable)), None


def _batch_scores(
    rewards: Sequence[Reward], pictures: Sequence[Image.Image], batch: Sequence[Entry]
) -> dict[str, list[float]]:
    """Scores of the batch by reward."""
    import torch

    from drtune.models.loading import DEVICE

    prompts, names = [entry.prompt for entry in batch], [entry.image for entry in batch]
    with torch.no_grad():
        return reward_columns(rewards, pictures, to_tensor(pictures).to(DEVICE), prompts, names)


@contextmanager
def _table(
    path: Path, names: Sequence[str], provenance: Mapping[str, str]
) -> Iterator[Callable[[list[dict[str, Any]]], Any]]:
    """A function that appends rows to a new .csv or .parquet file; the latter keeps the provenance in its schema."""
    columns = ["image", "prompt", "category", *names, "problem"]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            yield writer.writerows
    else:
        fields = [(column, pa.float64() if column in names else pa.string()) for column in columns]
        schema = pa.schema(fields, metadata={f"provenance of {name}": told for name, told in provenance.items()})
        with parquet.ParquetWriter(path, schema) as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))

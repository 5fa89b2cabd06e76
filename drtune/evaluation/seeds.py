"""One training is one draw: the same training with several seeds, compared over prompts and seeds.

Seeds and prompts are both samples, of the trainings and of the prompts that there could be, and every seed has all
prompts: effects of both are crossed. Prompts alone would make intervals too narrow where seeds differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from drtune.config import Config, differences, load_config
from drtune.contracts import (
    ANSWERS,
    CONFIG,
    MANIFEST,
    MIN_PROMPTS,
    MIN_SEEDS,
    SCORES,
    Capability,
    EvaluationReport,
    SeedGain,
    SeedRun,
    SeedsResult,
)
from drtune.errors import UserError
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.statistics import Floats, crossed_interval, crossed_shares
from drtune.files.given import is_on_s3
from drtune.files.local import replacing, write_text
from drtune.files.markdown import table
from drtune.files.output import claimed
from drtune.files.storage import open_storage

SUMMARY = "result.md"


def compare_seeds(reports: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> SeedsResult:
    """Write the SeedsResult of evaluations of trainings that differ in their seed alone, in the order of the reports.

    Args:
        reports: folders, here or on s3://.
        out: folder of the result.
        overwrite: replace the result that stands at `out`.

    Raises:
        UserError: fewer than two reports, one that cannot be read, two of one seed or training, or two that differ in
            more than it.

    >>> compare_seeds([f"runs/seeds/{seed}/report" for seed in (0, 1, 2)], "runs/seeds/result")
    """
    if len(reports) < 2:
        raise UserError(f"seeds: {len(reports)} report given; give those of two seeds or more")
    with claimed(out, "SeedsResult", overwrite=overwrite, inputs=reports) as place, TemporaryDirectory() as scratch:
        folders = [_at_hand(str(given), Path(scratch) / str(number)) for number, given in enumerate(reports)]
        opened = [(folder, EvaluationReport.load(folder)) for folder in folders]
        configs = [load_config(folder / CONFIG) for folder, _ in opened]
        _check_alike(opened, configs)
        tables = [_gains(folder, report) for folder, report in opened]
        result = SeedsResult(
            runs=tuple(
                SeedRun(
                    seed=config.seed,
                    weights_sha256=report.model.weights_sha256,
                    report_sha256=report.manifest_sha256,
                )
                for (_, report), config in zip(opened, configs, strict=True)
            ),
            gains=(
                *(_gain(name, np.stack([table[name].to_numpy() for table in tables])) for name in tables[0].columns),
                *_capability(opened),
            ),
        )
        with replacing(place) as folder:
            write_text(folder / SUMMARY, as_markdown(result))
            result.save(folder)
        return result


def _at_hand(place: str, scratch: Path) -> Path:
    """The folder of a report; of one on S3 what is needed is fetched to `scratch`."""
    if not is_on_s3(place):
        return Path(place)
    storage = open_storage(place)
    scratch.mkdir()
    for name in (MANIFEST, CONFIG, SCORES, ANSWERS):
        try:
            content = storage.read(name)
        except FileNotFoundError:
            if name == ANSWERS:  # which a report without compositional prompts has not
                continue
            raise UserError(f"{place}/{name}: is not there; give the folder of an evaluation report") from None
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_bytes(content)
    return scratch


def as_markdown(result: SeedsResult) -> str:
    """The result as a table."""
    seeds = [f"seed {run.seed}" for run in result.runs]
    rows = [["Gain over the base", "Mean", "95 % interval over prompts and seeds", *seeds]]
    for gain in result.gains:
        interval = "too few"
        if gain.low is not None and gain.high is not None:
            interval = f"{_signed(gain.low)} to {_signed(gain.high)}"
        rows.append([gain.measure, _signed(gain.gain), interval, *map(_signed, gain.by_seed)])
    return f"{table(rows)}\n"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _check_alike(opened: Sequence[tuple[Path, EvaluationReport]], configs: Sequence[Config]) -> None:
    """Refuse what would compare more than seeds."""
    (first, report), config = opened[0], configs[0]
    seeds: dict[int, Path] = {config.seed: first}
    trainings = {report.model.weights_sha256: first}
    for (folder, other), theirs in zip(opened[1:], configs[1:], strict=True):
        if theirs.seed in seeds:
            raise UserError(
                f"seeds: {folder} is of seed {theirs.seed}, as {seeds[theirs.seed]} is; give each seed once"
            )
        seeds[theirs.seed] = folder
        if same := trainings.get(other.model.weights_sha256):
            raise UserError(
                f"seeds: {folder} and {same} have the same weights: one training; give a report of each seed's own"
            )
        trainings[other.model.weights_sha256] = folder
        if apart := differences(theirs.model_copy(update={"seed": config.seed}), config):
            raise UserError(f"seeds: {folder} and {first} differ in more than their seed: {apart[0]}")
        mine, its = (
            (one.prompts_sha256, one.num_prompts, one.model.base_revision, one.model.prompts.sha256)
            for one in (report, other)
        )
        if mine != its:
            raise UserError(f"seeds: {folder} and {first} are not of the same prompts and base; evaluate both alike")


def _gains(folder: Path, report: EvaluationReport) -> pd.DataFrame:
    """Candidate minus base: a row a prompt, in one order for all reports, and a column a reward."""
    rewards = list(report.rewards)
    table = pd.read_parquet(folder / SCORES, columns=["contestant", "prompt", *rewards])
    means = table.groupby(["contestant", "prompt"])[rewards].mean()
    sides = [means[means.index.get_level_values("contestant") == one].droplevel(0) for one in (CANDIDATE, BASE)]
    return (sides[0] - sides[1]).sort_index()


def _capability(opened: Sequence[tuple[Path, EvaluationReport]]) -> Iterator[SeedGain]:
    """The gains in the share of compositional prompts drawn right, of all and by category; none where there is no exam.

    Raises:
        UserError: the exams are not the same, or answers are not those of their report.
    """
    exams = [(folder, report.capability) for folder, report in opened if report.capability]
    if not exams:
        return
    table = pd.DataFrame({str(folder): _answers(folder, exam) for folder, exam in exams})
    judges = {(exam.judge, exam.provenance) for _, exam in exams}
    if len(exams) < len(opened) or len(judges) > 1 or table.isna().any(axis=None):
        raise UserError(
            "seeds: the reports are not of the same compositional prompts and judge of them; evaluate all alike"
        )
    yield _gain("capability", table.to_numpy().T, crossed_shares)
    groups = list(table.groupby(level="category"))
    for category, rows in groups if len(groups) > 1 else []:
        yield _gain(f"capability {category}", rows.to_numpy().T, crossed_shares)


def _answers(folder: Path, exam: Capability) -> pd.Series[float]:
    """By category and prompt 1 where the candidate's picture alone is right, -1 where the base's alone is, else 0."""
    try:
        lines = (folder / ANSWERS).read_text(encoding="utf-8").splitlines()
        told = pd.DataFrame([json.loads(line) for line in lines])
        right = told.pivot(index=["category", "prompt"], columns="contestant", values="right").astype(float)
        difference = right[CANDIDATE] - right[BASE]
    except (OSError, ValueError, LookupError, TypeError):
        difference = pd.Series(dtype=float)
    overall = exam.scores[0]
    found = (len(difference), (difference > 0).sum(), (difference < 0).sum())
    if found != (overall.num_prompts, overall.gained, overall.lost):
        raise UserError(f"{folder / ANSWERS}: is gone, or is not what its report counted; evaluate again")
    return difference


def _gain(
    name: str, gains_SP: Floats, interval: Callable[[Floats], tuple[float, float]] = crossed_interval
) -> SeedGain:
    num_seeds, num_prompts = gains_SP.shape
    enough = num_seeds >= MIN_SEEDS and num_prompts >= MIN_PROMPTS
    low, high = interval(gains_SP) if enough else (None, None)
    by_seed = gains_SP.mean(axis=1)
    return SeedGain(
        measure=name,
        num_prompts=num_prompts,
        by_seed=tuple(by_seed.tolist()),
        gain=float(by_seed.mean()),
        low=low,
        high=high,
        deviation=float(by_seed.std(ddof=1)),
    )

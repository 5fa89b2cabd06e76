"""One evaluation: draw, measure, compare, and write the report's folder."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from drtune.config import Config, differences, load_config
from drtune.contracts import CONFIG, SCORES, BenchmarkRow, Contestant, EvaluationReport, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.evaluation.benchmark import benchmark
from drtune.evaluation.comparison import CANDIDATE, per_prompt, scores, standings, with_diversity
from drtune.evaluation.contestants import Drawn, Entrant, Shown, load_for
from drtune.evaluation.gathering import IMAGES, MEASURED, gather, gathered
from drtune.evaluation.highlights import highlights, write_grid
from drtune.evaluation.measures import Gauges
from drtune.evaluation.references import find_pictures, opened
from drtune.evaluation.report.pages import write_pages
from drtune.evaluation.shots import choose_prompts, count_truncated, shots_of
from drtune.files.local import claim, replacing, sha256_bytes, sha256_file, write_text
from drtune.files.progress import Progress
from drtune.files.provenance import code_revision
from drtune.models.loading import quiet_libraries
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import Prompt, load_prompts

PROBLEMS = "problems.jsonl"
HPS = "hps"
RESERVED = ("base", "candidate", "champion")
"""Names that a reference cannot have."""
KEY = "key"
"""File of an evaluation under way: what it hangs on. Another one does not go on with its batches."""
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "pillow")


def evaluate(
    model_folder: str | Path,
    prompts_folder: str | Path,
    out: str | Path,
    *,
    champion: str | Path | None = None,
    references: Mapping[str, str | Path] | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
) -> EvaluationReport:
    """Hold a TunedModel against its base and others on the held-out prompts of a PromptSet; write an EvaluationReport.

    The settings are those of the model's config.yaml; `overrides` may change its `evaluation` section. What was done
    stands in OUT.partial until all is; called again in the same way, an evaluation that was ended goes on from there.

    Args:
        model_folder: the candidate.
        prompts_folder: PromptSet.
        out: folder of the report.
        champion: the TunedModel that the candidate would replace.
        references: folders or archives of pictures by name: paths, or on S3 (docs/evaluation.md).
        overrides: differences such as "evaluation.max_prompts=64".
        overwrite: replace the report that stands at `out`.

    Raises:
        UserError: a model, the prompts or a reference cannot be used, an override does not belong here, a score is
            not finite, or something stands at `out` and `overwrite` is off.

    >>> report = evaluate("runs/mine", "runs/prompts", "runs/report", references={"midjourney": "references/mj"})
    """
    quiet_libraries()
    given = {name: str(place) for name, place in (references or {}).items()}
    out = claim(out, overwrite=overwrite, inputs=[model_folder, prompts_folder, champion, *given.values()])
    model_folder = Path(model_folder)
    model, tuned = open_tuned(model_folder)
    config = _overridden(tuned, model_folder / CONFIG, overrides)
    prompts = choose_prompts(load_prompts(prompts_folder, "eval"), config.evaluation.max_prompts)
    config, pipeline = _sized(config, model, prompts)
    with ExitStack() as unpacking:
        entrants = [
            *_models(config, model_folder, model, champion),
            *_references(given, prompts, config.evaluation.pictures_per_prompt, unpacking),
        ]
        gauges = Gauges(config, model_folder)
        folder = _room(out, _key(config, prompts, entrants, gauges))
        table = _table(entrants, prompts, config, gauges, folder)
    report = EvaluationReport(
        model=model,
        prompts_sha256=PromptSet.load(prompts_folder).sha256,
        num_prompts=len(prompts),
        pictures_per_prompt=config.evaluation.pictures_per_prompt,
        seed=config.evaluation.seed,
        num_inference_steps=config.evaluation.sampler.steps,
        guidance_scale=config.evaluation.sampler.guidance_scale,
        negative_prompt=config.evaluation.sampler.negative_prompt,
        antialias=config.reward_antialias,
        code_revision=code_revision(),
        versions=_versions(),
        **pipeline,
        **_findings(table, entrants, gauges, config, folder),
    )
    write_text(folder / CONFIG, config.to_yaml())
    report.save(folder)
    write_pages(folder, folder)
    shutil.rmtree(folder / MEASURED)
    with replacing(out) as written:
        folder.replace(written)
    (out / KEY).unlink()
    return report


def _overridden(tuned: Config, path: Path, overrides: Sequence[str]) -> Config:
    """The model's configuration, which stands at `path`, with the overrides."""
    config = load_config(path, overrides)
    for difference in differences(config, tuned):
        if not difference.startswith("evaluation."):
            raise UserError(f"--set {difference}: the model is tuned already; only evaluation.* can be set now")
    return config


def _sized(config: Config, model: TunedModel, prompts: Sequence[Prompt]) -> tuple[Config, dict[str, Any]]:
    """The configuration with the pictures' size in it, and what the report tells of the pipeline, by its fields."""
    base = load_for(config, model.base_model, model.base_revision)
    about = {
        "pipeline": type(base.pipeline).__name__,
        "scheduler": type(base.pipeline.scheduler).__name__,
        "num_truncated": count_truncated(base.pipeline, prompts),
    }
    return config.model_copy(update={"height": base.height, "width": base.width}), about


def _models(config: Config, folder: Path, model: TunedModel, champion: str | Path | None) -> Iterator[Entrant]:
    """Those who draw, the base first."""
    yield Drawn("base", "base", config, model.base_model, model.base_revision)
    yield Drawn("candidate", "candidate", config, model.base_model, model.base_revision, (folder, model))
    if champion is not None:
        reigning, _ = open_tuned(champion)
        tuned = (Path(champion), reigning)
        yield Drawn("champion", "champion", config, reigning.base_model, reigning.base_revision, tuned)


def _references(
    places: Mapping[str, str], prompts: Sequence[Prompt], pictures_per_prompt: int, unpacking: ExitStack
) -> Iterator[Entrant]:
    """Those who bring their pictures."""
    for name, place in places.items():
        if not re.fullmatch(r"[a-z0-9]+([-._][a-z0-9]+)*", name) or name in RESERVED:
            raise UserError(
                f"reference {name!r}: wanted lower-case letters, digits and dashes, and not {', '.join(RESERVED)}"
            )
        folder = unpacking.enter_context(opened(name, place))
        yield Shown(name, place, find_pictures(name, folder, prompts, pictures_per_prompt))


def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _key(config: Config, prompts: Sequence[Prompt], entrants: Sequence[Entrant], gauges: Gauges) -> str:
    """A digest of all that the pictures and their measures hang on."""
    parts = (
        config.to_yaml(),
        [(prompt.text, prompt.category) for prompt in prompts],
        [(entrant.name, entrant.source, entrant.sha256) for entrant in entrants],
        [measure.manifest() for measure in gauges.measures],
        _versions(),
        code_revision(),
    )
    return sha256_bytes(repr(parts).encode())


def _room(out: Path, key: str) -> Path:
    """The folder of an evaluation under way, beside its report: what it holds is kept if it is of the same evaluation.

    Raises:
        UserError: something else stands there.
    """
    folder = out.with_name(f"{out.name}.partial")
    if folder.exists() and any(folder.iterdir()) and not (folder / KEY).is_file():
        raise UserError(
            f"{folder}: stands where the evaluation works, and is not its own; move it, or give another --out"
        )
    folder.mkdir(exist_ok=True)
    if (folder / KEY).is_file() and (folder / KEY).read_text(encoding="utf-8") != key:
        for part in (IMAGES, MEASURED):  # the key goes last, so that what a kill leaves is still known to be ours
            shutil.rmtree(folder / part, ignore_errors=True)
    write_text(folder / KEY, key)
    return folder


def _table(
    entrants: Sequence[Entrant], prompts: Sequence[Prompt], config: Config, gauges: Gauges, folder: Path
) -> pd.DataFrame:
    """A row for each picture of all contestants."""
    shots = shots_of(prompts, config.evaluation.pictures_per_prompt)
    with Progress("evaluate", len(entrants) * len(shots), "image") as progress:
        for entrant in entrants:
            gather(entrant, shots, gauges, folder, batch_size=config.evaluation.batch_size, progress=progress)
    return pd.concat([gathered(entrant, folder) for entrant in entrants], ignore_index=True)


def _findings(
    table: pd.DataFrame, entrants: Sequence[Entrant], gauges: Gauges, config: Config, folder: Path
) -> dict[str, Any]:
    """What a report says of the pictures, by its fields; the files that belong to it are written into `folder`."""
    unusable = table.loc[table["problem"] != "", ["contestant", "image", "prompt", "problem"]]
    problems: list[dict[str, Any]] = [
        *({"contestant": entrant.name, **problem._asdict()} for entrant in entrants for problem in entrant.problems),
        *({str(key): value for key, value in row.items()} for row in unusable.to_dict("records")),
    ]
    write_text(folder / PROBLEMS, "".join(json.dumps(problem) + "\n" for problem in problems))
    pictures = with_diversity(table[table["problem"] == ""]).drop(columns="problem")
    pictures.drop(columns="index").to_parquet(folder / SCORES, index=False)
    write_grid(pictures, folder)
    gained, lost = highlights(pictures, config, folder)
    means = per_prompt(pictures, gauges.measures)
    counts = Counter((problem["contestant"], problem["problem"]) for problem in problems)
    contestants = [
        Contestant(
            name=entrant.name,
            role=entrant.role,
            source=entrant.source,
            sha256=entrant.sha256,
            num_pictures=int((pictures["contestant"] == entrant.name).sum()),
            problems={reason: number for (name, reason), number in sorted(counts.items()) if name == entrant.name},
        )
        for entrant in entrants
    ]
    return {
        "contestants": sorted(contestants, key=lambda contestant: contestant.name != CANDIDATE),
        "measures": gauges.measures,
        "standings": standings(means, gauges.measures),
        "scores": scores(means, gauges.measures),
        "benchmark": _benchmark(pictures),
        "gained": gained,
        "lost": lost,
        "scores_sha256": sha256_file(folder / SCORES),
    }


def _benchmark(pictures: pd.DataFrame) -> list[BenchmarkRow]:
    """The Human Preference Score's benchmark of each contestant, where the prompts are its prompts."""
    if HPS not in pictures:
        return []
    first = pictures[pictures["picture"] == 0]
    rows = [
        benchmark(str(contestant), {str(style): part[HPS].tolist() for style, part in group.groupby("category")})
        for contestant, group in first.groupby("contestant", sort=False)
    ]
    return [row for row in rows if row is not None]

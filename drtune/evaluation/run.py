"""One evaluation: draw, measure, compare, and write the report's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from drtune.config import Config
from drtune.contracts import CONFIG, Capability, CurvePoint, EvaluationReport, read_curve, write_curve
from drtune.evaluation.capability.exam import Exam, open_exam, partial_judge
from drtune.evaluation.capability.result import capability_of
from drtune.evaluation.checks import check_inputs, overridden
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.contestants import (
    AnyContestant,
    DrawnContestant,
    LoadedModel,
    drawn_contestants,
    reference_contestants,
)
from drtune.evaluation.findings import findings
from drtune.evaluation.gathering import CAPABILITY, KEY, MEASURED, gather, gathered, partial_folder
from drtune.evaluation.measures import Gauges
from drtune.evaluation.report.pages import write_pages
from drtune.evaluation.strength import curve_of, no_curve, other_strengths
from drtune.files.local import replacing, sha256_bytes, write_text
from drtune.files.output import base_folder, claimed
from drtune.files.progress import Progress
from drtune.files.provenance import code_revision
from drtune.models.base import Base
from drtune.models.loading import quiet_libraries
from drtune.models.miniature.cores import is_small, take_one_thread
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import Prompt, open_prompts
from drtune.prompts.shots import Shot, choose_prompts, shots_of

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

    The settings are those of the model's config.yaml; `overrides` may change its `evaluation` section, and the size of
    the pictures. What was done stands in OUT.partial until all is; called again in the same way, an evaluation that was
    ended goes on from there.

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
    places = {name: str(place) for name, place in (references or {}).items()}
    check_inputs(model_folder, prompts_folder, out, champion, places, overwrite=overwrite)
    model_folder = Path(model_folder)
    model, _ = open_tuned(model_folder)
    curve = read_curve(model_folder)
    inputs = [model_folder, base_folder(model.base_model), prompts_folder, champion, *places.values()]
    with claimed(out, "EvaluationReport", overwrite=overwrite, inputs=inputs) as out:
        config = overridden(model_folder, overrides)
        judge = config.evaluation.capability.judge_of(model.base_model)
        if is_small(model.base_model, [*config.rewards, *config.evaluation.rewards, config.evaluation.features, judge]):
            take_one_thread()
        prepared = open_prompts(prompts_folder)
        prompts = choose_prompts(prepared.eval, config.evaluation.max_prompts)
        print(f"evaluate: loading {model.base_model}, to draw for {len(prompts)} held-out prompts", flush=True)
        exam = open_exam(config)
        loaded = LoadedModel(config, [prompt.text for prompt in (*prompts, *(exam.prompts if exam else ()))])
        pipeline = _described(loaded.become(model.base_model, model.base_revision), prompts)
        config = config.model_copy(update={"height": loaded.height, "width": loaded.width})
        with ExitStack() as unpacking:
            contestants: list[AnyContestant] = [
                *drawn_contestants(loaded, config.evaluation, model_folder, model, champion),
                *reference_contestants(places, prompts, config.evaluation.pictures_per_prompt, unpacking),
            ]
            gauges = Gauges(config, model_folder)
            others = list(other_strengths(config, contestants))
            folder = partial_folder(out, _key(config, prompts, [*contestants, *others], gauges, exam))
            table = _table(contestants, others, prompts, config, gauges, exam, folder, loaded)
        names = [contestant.name for contestant in contestants]
        report = EvaluationReport(
            model=model,
            prompts_sha256=prepared.prompt_set.sha256,
            num_prompts=len(prompts),
            pictures_per_prompt=config.evaluation.pictures_per_prompt,
            seed=config.evaluation.seed,
            num_inference_steps=config.evaluation.sampler.steps,
            guidance_scale=config.evaluation.sampler.guidance_scale,
            negative_prompt=config.evaluation.sampler.negative_prompt,
            base_steps=config.evaluation.sampler.base_steps,
            antialias=config.reward_antialias,
            code_revision=code_revision(),
            versions=_versions(),
            **pipeline,
            capability=_capability(contestants, exam, folder),
            scale_curve=curve_of(table, others, gauges.measures, config.scale_prompts, folder),
            notes=(*gauges.notes, *no_curve(config, model), *partial_judge(exam, config)),
            **findings(table[table["contestant"].isin(names)], contestants, gauges, config, folder),
        )
        _publish(report, config, curve, folder, out)
        return report


def _described(base: Base, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What the report tells of the base's pipeline, by its fields."""
    return {
        "height": base.height,
        "width": base.width,
        "pipeline": type(base.pipeline).__name__,
        "scheduler": type(base.pipeline.scheduler).__name__,
        "num_truncated": base.count_truncated([prompt.text for prompt in prompts]),
    }


def _key(
    config: Config,
    prompts: Sequence[Prompt],
    contestants: Sequence[AnyContestant],
    gauges: Gauges,
    exam: Exam | None,
) -> str:
    """A digest of all that the pictures and their measures hang on."""
    parts = (
        config.to_yaml(),
        [(prompt.text, prompt.category) for prompt in prompts],
        [(contestant.name, contestant.source, contestant.sha256) for contestant in contestants],
        [measure.manifest() for measure in gauges.measures],
        exam and (exam.prompts, exam.judge.provenance),
        _versions(),
        code_revision(),
    )
    return sha256_bytes(repr(parts).encode())


def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _table(
    contestants: Sequence[AnyContestant],
    others: Sequence[DrawnContestant],
    prompts: Sequence[Prompt],
    config: Config,
    gauges: Gauges,
    exam: Exam | None,
    folder: Path,
    loaded: LoadedModel,
) -> pd.DataFrame:
    """A row for each picture of all contestants, and of the `others`, which draw for the curve's prompts alone.

    Base and candidate sit the exam, too, as soon as each is there.
    """
    shots = shots_of(prompts, config.evaluation.pictures_per_prompt)
    few = [shot for shot in shots if shot.index < config.scale_prompts]
    asked: list[tuple[AnyContestant, list[Shot]]] = [(contestant, shots) for contestant in contestants]
    asked[2:2] = [(other, few) for other in others]  # after base and candidate, whose adapter is on the base then
    tasks = shots_of(exam.prompts, 1) if exam else []
    with Progress("evaluate", sum(len(wanted) for _, wanted in asked) + 2 * len(tasks), "image") as progress:
        for contestant, wanted in asked:
            if not contestant.draws:
                loaded.close()  # pictures that are brought may be large, and need the memory to be measured
            gather(contestant, wanted, gauges, folder, batch_size=config.evaluation.batch_size, progress=progress)
            if exam and contestant.name in (BASE, CANDIDATE):
                gather(
                    contestant,
                    tasks,
                    exam,
                    folder / CAPABILITY,
                    batch_size=config.evaluation.batch_size,
                    progress=progress,
                )
    return pd.concat([gathered(contestant, folder) for contestant, _ in asked], ignore_index=True)


def _capability(contestants: Sequence[AnyContestant], exam: Exam | None, folder: Path) -> Capability | None:
    if exam is None:
        return None
    both = [gathered(one, folder / CAPABILITY) for one in contestants if one.name in (BASE, CANDIDATE)]
    return capability_of(pd.concat(both, ignore_index=True), exam.judge, folder)


def _publish(report: EvaluationReport, config: Config, curve: Sequence[CurvePoint], folder: Path, out: Path) -> None:
    """Make the report's folder of the one in which the evaluation worked."""
    write_text(folder / CONFIG, config.to_yaml())
    if curve:
        write_curve(folder, curve)
    report.save(folder)
    write_pages(folder, folder)
    for measured in (folder / MEASURED, folder / CAPABILITY / MEASURED):
        shutil.rmtree(measured, ignore_errors=True)
    with replacing(out) as written:
        folder.replace(written)
    (out / KEY).unlink()

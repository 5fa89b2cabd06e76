"""One evaluation: draw, measure, compare, and write the report's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from drtune.config import Config
from drtune.contracts import CONFIG, Capability, CurvePoint, EvaluationReport, TunedModel, read_curve, write_curve
from drtune.evaluation.capability.exam import Exam, partial_judge
from drtune.evaluation.capability.result import capability_of
from drtune.evaluation.checks import check_inputs, overridden
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.contestants import AnyContestant, reference_contestants
from drtune.evaluation.findings import findings
from drtune.evaluation.gathering import CAPABILITY, KEY, MEASURED, gathered, partial_folder
from drtune.evaluation.report.pages import write_pages
from drtune.evaluation.strength import curve_of, no_curve
from drtune.evaluation.work import Work, helpers, make_all
from drtune.files.local import replacing, sha256_bytes, write_text
from drtune.files.output import base_folder, claimed
from drtune.files.provenance import code_revision
from drtune.models.loading import quiet_libraries
from drtune.models.miniature.cores import cores, is_small, take_one_thread
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import open_prompts
from drtune.prompts.shots import choose_prompts

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
        judges = [*config.measured_rewards, config.evaluation.features, judge]
        processes = 1
        if is_small(model.base_model, judges):
            take_one_thread()
            processes = min(cores() // torch.get_num_threads(), config.process_count)  # what fits in memory
        prepared = open_prompts(prompts_folder)
        prompts = choose_prompts(prepared.eval, config.evaluation.max_prompts)
        print(f"evaluate: loading {model.base_model}, to draw for {len(prompts)} held-out prompts", flush=True)
        with ExitStack() as held:
            brought = reference_contestants(places, prompts, config.evaluation.pictures_per_prompt, held)
            work = Work(config, model_folder, model, champion, prompts, list(brought))
            folder = partial_folder(out, _key(work))
            batches = work.batches(folder)
            given = [f"--model={model_folder}", f"--prompts={prompts_folder}", f"--folder={folder}"]
            given += [*([f"--champion={champion}"] if champion else []), *(f"--set={one}" for one in overrides)]
            make_all(work, batches, held.enter_context(helpers(batches, given, processes)))
        report = _report(work, model, prepared.prompt_set.sha256, folder)
        _publish(report, work.config, curve, folder, out)
        return report


def _key(work: Work) -> str:
    """A digest of all that the pictures and their measures hang on."""
    parts = (
        work.config.to_yaml(),
        [(prompt.text, prompt.category) for prompt in work.prompts],
        [(one.name, one.source, one.sha256) for one in (*work.contestants, *work.others)],
        [measure.manifest() for measure in work.gauges.measures],
        work.exam and (work.exam.prompts, work.exam.judge.provenance),
        _versions(),
        code_revision(),
    )
    return sha256_bytes(repr(parts).encode())


def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _report(work: Work, model: TunedModel, prompts_sha256: str, folder: Path) -> EvaluationReport:
    """What came out of the pictures that were made in `folder`, to which it adds those that the report shows."""
    config, gauges = work.config, work.gauges
    table = pd.concat([gathered(one, folder) for one in work.everybody], ignore_index=True)
    names = [contestant.name for contestant in work.contestants]
    settings = config.evaluation
    return EvaluationReport(
        model=model,
        prompts_sha256=prompts_sha256,
        num_prompts=len(work.prompts),
        pictures_per_prompt=settings.pictures_per_prompt,
        seed=settings.seed,
        num_inference_steps=settings.sampler.steps,
        guidance_scale=settings.sampler.guidance_scale,
        negative_prompt=settings.sampler.negative_prompt,
        base_steps=settings.sampler.base_steps,
        antialias=config.reward_antialias,
        code_revision=code_revision(),
        versions=_versions(),
        **work.pipeline,
        capability=_capability(work.contestants, work.exam, folder),
        scale_curve=curve_of(table, work.others, gauges.measures, config.scale_prompts, folder),
        notes=(*gauges.notes, *no_curve(config, model), *partial_judge(work.exam, config)),
        **findings(table[table["contestant"].isin(names)], work.contestants, gauges, config, folder),
    )


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

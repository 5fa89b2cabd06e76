"""Small whole contracts to judge, render and publish in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drtune.contracts import (
    SCORES,
    Contestant,
    DataSource,
    EvaluationReport,
    Measure,
    Preference,
    PromptSet,
    ScalePoint,
    Score,
    Standing,
    StudyResult,
    TunedModel,
)
from drtune.files.local import sha256_bytes, sha256_file


def tuned_model(**fields: Any) -> TunedModel:
    """A manifest whose digests name nothing, with some fields of its own."""
    prompts = PromptSet(
        sha256=sha256_bytes(b"prompts"),
        num_train=500,
        num_eval=100,
        categories={"": 600},
        problems={},
        source=DataSource(
            path="data/prompts.txt", sha256=sha256_bytes(b"source"), git_revision="4a1b2c", dvc_md5="d751.dir"
        ),
    )
    usual: dict[str, Any] = {
        "weights_sha256": sha256_bytes(b"adapter"),
        "base_model": "miniature",
        "base_revision": None,
        "step": 80,
        "config_sha256": sha256_bytes(b"config"),
        "prompts": prompts,
        "code_revision": "904f0b1",
        "reward": 0.83,
    }
    return TunedModel(**(usual | fields))


def score(
    measure: str = "symmetry",
    gain: float = 0.25,
    margin: float = 0.03,
    win_rate: float = 0.9,
    category: str | None = None,
    num_prompts: int = 100,
    opponent: str = "base",
    effect: float | None = None,
    opponent_mean: float = 0.5,
) -> Score:
    """A score whose intervals reach `margin` to both sides, on prompts with a deviation of 0.25."""
    return Score(
        measure=measure,
        opponent=opponent,
        category=category,
        num_prompts=num_prompts,
        opponent_mean=opponent_mean,
        candidate_mean=opponent_mean + gain,
        gain=gain,
        gain_low=gain - margin,
        gain_high=gain + margin,
        effect=gain / 0.25 if effect is None else effect,
        p_value=0.0004,
        win_rate=win_rate,
        win_low=win_rate - margin,
        win_high=win_rate + margin,
    )


def standing(measure: str, mean: float, contestant: str = "candidate") -> Standing:
    """A contestant's mean over 100 prompts."""
    return Standing(
        contestant=contestant,
        measure=measure,
        category=None,
        num_prompts=100,
        mean=mean,
        low=mean - 0.02,
        high=mean + 0.02,
        deviation=0.25,
    )


KINDS = {
    "symmetry": "trained",
    "diversity_within": "diversity",
    "diversity_across": "diversity",
    "drift": "drift",
    "cmmd": "drift",
    "luminance": "look",
    "saturation": "look",
}


def report_of(
    *scores: Score,
    num_prompts: int = 100,
    model: TunedModel | None = None,
    standings: Sequence[Standing] = (),
    **fields: Any,
) -> EvaluationReport:
    """A report with these scores, and what follows from them; a measure that is not in KINDS is a held-out reward."""
    model = model or tuned_model()
    names = list(dict.fromkeys([*(one.measure for one in scores), *(one.measure for one in standings)]))
    opponents = list(dict.fromkeys(["base", *(one.opponent for one in scores)]))
    means = {
        (name, one.measure): mean
        for one in reversed(scores)  # the candidate's mean is that of its first comparison
        if one.category is None
        for name, mean in ((one.opponent, one.opponent_mean), ("candidate", one.candidate_mean))
    }
    return EvaluationReport(
        model=model,
        contestants=tuple(contestant(name) for name in ("candidate", *opponents)),
        measures=tuple(Measure(name=name, kind=KINDS.get(name, "held_out")) for name in names),
        standings=(*(standing(measure, mean, name) for (name, measure), mean in means.items()), *standings),
        scores=scores,
        prompts_sha256=model.prompts.sha256,
        num_prompts=num_prompts,
        pictures_per_prompt=2,
        seed=0,
        pipeline="StableDiffusionXLPipeline",
        scheduler="DDIMScheduler",
        height=32,
        width=32,
        num_inference_steps=12,
        guidance_scale=3.0,
        antialias=True,
        scores_sha256=sha256_bytes(b"scores"),
        code_revision="4a1b2c",
        versions={"torch": "2.13.0"},
        **fields,
    )


def save_report(report: EvaluationReport, folder: Path) -> EvaluationReport:
    """Save the report into a folder, as one on the table of scores that lies there."""
    signed = report.model_copy(update={"scores_sha256": sha256_file(folder / SCORES)})
    signed.save(folder)
    return signed


def point_of(scale: float, *scores: Score, standings: Sequence[Standing] = (), picture: str = "") -> ScalePoint:
    """The candidate with its adapter at another strength, and what is measured of it."""
    means = [standing(one.measure, one.candidate_mean) for one in scores]
    return ScalePoint(scale=scale, standings=(*means, *standings), scores=scores, agreements=(), picture=picture)


def contestant(name: str) -> Contestant:
    """One of that name, which tells its role."""
    role = name if name in ("base", "candidate", "champion") else "reference"
    return Contestant(name=name, role=role, source=f"the {name}", sha256=None, num_pictures=200)


def study_of(report: EvaluationReport) -> StudyResult:
    """Three raters prefer the candidate to the base in 65 % of 60 votes."""
    preference = Preference(
        contestant="candidate",
        opponent="base",
        num_votes=60,
        num_prompts=20,
        num_raters=3,
        win_rate=0.65,
        win_low=0.55,
        win_high=0.75,
    )
    return StudyResult(
        study_sha256=sha256_bytes(b"study"),
        report_sha256=report.manifest_sha256,
        votes_sha256={},
        question="Which picture is better?",
        num_votes=60,
        num_repeats=6,
        num_prompts=20,
        num_raters=3,
        preferences=(preference,),
        raters=(),
        self_consistency=0.8,
        agreement=0.7,
        alpha=0.4,
        strengths=(),
    )

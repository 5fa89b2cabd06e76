"""Small whole contracts to judge, render and publish in tests."""

from __future__ import annotations

from drtune.contracts import DataSource, EvaluationReport, PromptSet, Score, TunedModel
from drtune.files import sha256_bytes


def tuned_model(base_model: str = "miniature") -> TunedModel:
    """A manifest whose digests name nothing."""
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
    return TunedModel(
        weights_sha256=sha256_bytes(b"adapter"),
        base_model=base_model,
        base_revision=None,
        step=80,
        config_sha256=sha256_bytes(b"config"),
        prompts=prompts,
        code_revision="904f0b1",
        reward=0.83,
    )


def score(
    reward: str = "symmetry",
    gain: float = 0.25,
    margin: float = 0.03,
    win_rate: float = 0.9,
    category: str | None = None,
    num_prompts: int = 100,
) -> Score:
    """A score whose intervals reach `margin` to both sides."""
    return Score(
        reward=reward,
        category=category,
        num_prompts=num_prompts,
        base_mean=0.5,
        candidate_mean=0.5 + gain,
        gain=gain,
        gain_low=gain - margin,
        gain_high=gain + margin,
        win_rate=win_rate,
        win_low=win_rate - margin,
        win_high=win_rate + margin,
    )


def report_of(*scores: Score, num_prompts: int = 100, model: TunedModel | None = None) -> EvaluationReport:
    """A report with these scores."""
    model = model or tuned_model()
    return EvaluationReport(
        model=model,
        prompts_sha256=model.prompts.sha256,
        num_prompts=num_prompts,
        seed=0,
        pipeline="StableDiffusionXLPipeline",
        scheduler="DDIMScheduler",
        num_inference_steps=12,
        guidance_scale=3.0,
        trained_rewards=("symmetry",),
        scores=scores,
        scores_sha256=sha256_bytes(b"scores"),
    )

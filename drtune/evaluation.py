"""The evaluation: base against tuned model, on the same held-out prompts with the same noise, by every reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from drtune import report
from drtune.bases import Base, load_base, quiet_libraries
from drtune.config import Config, EvaluationConfig, differences, load_config
from drtune.contracts import CONFIG, EvaluationReport, PromptSet, Score, TunedModel
from drtune.errors import UserError
from drtune.files import claim, replacing, sha256_bytes, sha256_file
from drtune.images import contact_sheet, to_pil
from drtune.prompts import Prompt, load_prompts
from drtune.rewards import Reward, load_reward
from drtune.statistics import compare_paired
from drtune.tuned import open_tuned, put_on

PAIRS_IN_GRID = 32
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Samples:
    """What one side made of N prompts: its pictures, and their scores (N,) by reward."""

    pictures: list[Image.Image]
    scores: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """Both sides on the same prompts, in the same order."""

    prompts: Sequence[Prompt]
    base: Samples
    candidate: Samples
    num_truncated: int
    """Prompts that are longer than a text encoder reads."""


def evaluate(
    model_folder: str | Path,
    prompts_folder: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
) -> EvaluationReport:
    """Compare a TunedModel with its base on the held-out prompts of a PromptSet, and write the EvaluationReport folder.

    The settings are those of the model's config.yaml; `overrides` may change its `evaluation` section.

    Raises:
        UserError: the model or the prompts are not what their manifests say, an override does not belong here,
            or something stands at `out` and `overwrite` is off.
        ValueError: a picture has a score that is not finite.
    """
    quiet_libraries()
    out = claim(out, overwrite=overwrite, inputs=[model_folder, prompts_folder])
    model_folder = Path(model_folder)
    model, tuned = open_tuned(model_folder)
    config = _overridden(tuned, model_folder / CONFIG, overrides)
    prompts = choose_prompts(load_prompts(prompts_folder, "eval"), config.evaluation.max_prompts)
    names = dict.fromkeys([*config.rewards, *config.evaluation.rewards])  # in order, each once
    rewards = [load_reward(name, antialias=config.reward_antialias, model_folder=model_folder) for name in names]
    base = load_base(
        model.base_model,
        model.base_revision,
        precision=config.compute.precision,
        height=config.height,
        width=config.width,
    )
    base.pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    comparison = compare(base, model_folder, model, prompts, rewards, config.evaluation)

    with replacing(out) as folder:
        folder.mkdir()
        _write_pictures(comparison, folder)
        table = score_table(comparison)
        table.to_parquet(folder / "scores.parquet", index=False)
        evaluation = EvaluationReport(
            model=model,
            prompts_sha256=PromptSet.load(prompts_folder).sha256,
            num_prompts=len(prompts),
            seed=config.evaluation.seed,
            pipeline=type(base.pipeline).__name__,
            scheduler=type(base.pipeline.scheduler).__name__,
            num_inference_steps=config.evaluation.sampler.steps,
            guidance_scale=config.evaluation.sampler.guidance_scale,
            negative_prompt=config.evaluation.sampler.negative_prompt,
            trained_rewards=tuple(config.rewards),
            scores=summarise(table),
            scores_sha256=sha256_file(folder / "scores.parquet"),
            reward_provenance={reward.name: reward.provenance for reward in rewards if reward.provenance},
        )
        page = report.render(
            evaluation,
            _pairs(comparison, config),
            config,
            spreads={name: float(scores.std()) for name, scores in comparison.base.scores.items()},
            num_truncated=comparison.num_truncated,
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
        evaluation.save(folder)
    return evaluation


def choose_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """At most `count` prompts: the first of each category, then the second of each, and so on."""
    categories: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        categories.setdefault(prompt.category, []).append(prompt)
    in_turn = chain.from_iterable(zip_longest(*categories.values()))
    return [prompt for prompt in in_turn if prompt is not None][:count]


def compare(
    base: Base,
    model_folder: Path,
    model: TunedModel,
    prompts: Sequence[Prompt],
    rewards: Sequence[Reward],
    settings: EvaluationConfig,
) -> Comparison:
    """Sample and score the base as it is, then as the tuned model, which it stays; each by its own pipeline."""
    with tqdm(total=2 * len(prompts), desc="evaluate", unit="image") as progress:
        before = _sample(base, prompts, rewards, settings, progress)
        put_on(base, model_folder, model)
        candidate = _sample(base, prompts, rewards, settings, progress)
    return Comparison(prompts, before, candidate, count_truncated(base.pipeline, prompts))


def noise_seed(prompt: Prompt, seed: int) -> int:
    """The seed of a prompt's initial noise. It hangs on the text alone, not on the other prompts of the evaluation."""
    return int(sha256_bytes(f"{seed} {prompt.text}".encode())[:15], 16)


def count_truncated(pipeline: DiffusionPipeline, prompts: Sequence[Prompt]) -> int:
    """How many prompts are longer than what one of the text encoders reads."""
    tokenizers = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part]

    def is_truncated(prompt: Prompt) -> bool:
        return any(
            len(tokenizer(prompt.text, verbose=False).input_ids) > tokenizer.model_max_length
            for tokenizer in tokenizers
        )

    return sum(map(is_truncated, prompts))


def score_table(comparison: Comparison) -> pd.DataFrame:
    """One row a reward and prompt: prompt, category, image (its file's name), reward, base, candidate."""
    prompts = comparison.prompts
    rows = {
        "prompt": [prompt.text for prompt in prompts],
        "category": [prompt.category for prompt in prompts],
        "image": [_file_name(index) for index in range(len(prompts))],
    }
    parts = [
        pd.DataFrame(rows | {"reward": name, "base": base, "candidate": comparison.candidate.scores[name]})
        for name, base in comparison.base.scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def summarise(table: pd.DataFrame) -> tuple[Score, ...]:
    """For each reward the Score over all prompts, then one for each category if there are several."""
    scores = []
    for reward, rows in table.groupby("reward", sort=False):
        groups: list[tuple[str | None, pd.DataFrame]] = [(None, rows)]
        if rows["category"].nunique() > 1:
            groups += [(str(category), part) for category, part in rows.groupby("category", sort=True)]
        for category, part in groups:
            compared = compare_paired(part["base"], part["candidate"])
            scores.append(Score(reward=str(reward), category=category, **asdict(compared)))
    return tuple(scores)


@torch.no_grad()
def _sample(
    base: Base,
    prompts: Sequence[Prompt],
    rewards: Sequence[Reward],
    settings: EvaluationConfig,
    progress: tqdm[NoReturn],
) -> Samples:
    """Pictures and scores of all prompts, one batch at a time."""
    pictures: list[Image.Image] = []
    batches: dict[str, list[NDArray[np.float64]]] = {reward.name: [] for reward in rewards}
    for start in range(0, len(prompts), settings.batch_size):
        batch = prompts[start : start + settings.batch_size]
        texts = [prompt.text for prompt in batch]
        negative = settings.sampler.negative_prompt
        images_BCHW = base.pipeline(
            texts,
            negative_prompt=[negative] * len(batch) if negative else None,
            num_inference_steps=settings.sampler.steps,
            guidance_scale=settings.sampler.guidance_scale,
            height=base.height,
            width=base.width,
            generator=[torch.Generator().manual_seed(noise_seed(prompt, settings.seed)) for prompt in batch],
            output_type="pt",
        ).images.float()
        for reward in rewards:
            scores_B = reward(images_BCHW, texts)
            if (unusable_B := ~scores_B.isfinite()).any():
                raise ValueError(f"reward {reward.name}: not finite for {texts[int(unusable_B.int().argmax())]!r}")
            batches[reward.name].append(scores_B.double().cpu().numpy())
        pictures += to_pil(images_BCHW)
        progress.update(len(batch))
    return Samples(pictures, {name: np.concatenate(parts) for name, parts in batches.items()})


def _overridden(tuned: Config, path: Path, overrides: Sequence[str]) -> Config:
    """The model's configuration, which stands at `path`, with the overrides."""
    config = load_config(path, overrides)
    for difference in differences(config, tuned):
        if not difference.startswith("evaluation."):
            raise UserError(f"--set {difference}: the model is tuned already; only evaluation.* can be set now")
    return config


def _pairs(comparison: Comparison, config: Config) -> list[report.Pair]:
    """The pictures in pairs, with the score that was tuned: the weighted sum of the trained rewards."""

    def tuned_scores(samples: Samples) -> list[float]:
        weighted = [term.weight * samples.scores[name] for name, term in config.rewards.items()]
        return [float(score) for score in np.sum(weighted, axis=0)]

    base, candidate = comparison.base, comparison.candidate
    sides = zip(base.pictures, candidate.pictures, tuned_scores(base), tuned_scores(candidate), strict=True)
    return [report.Pair(prompt.text, *side) for prompt, side in zip(comparison.prompts, sides, strict=True)]


def _write_pictures(comparison: Comparison, folder: Path) -> None:
    """images/base, images/candidate, and grid.png with the first prompts: base and candidate side by side."""
    for side, samples in (("base", comparison.base), ("candidate", comparison.candidate)):
        pictures_folder = folder / "images" / side
        pictures_folder.mkdir(parents=True)
        for index, picture in enumerate(samples.pictures):
            picture.save(pictures_folder / _file_name(index))
    pairs = zip(comparison.base.pictures, comparison.candidate.pictures, strict=True)
    in_turn = list(chain.from_iterable(pairs))[: 2 * PAIRS_IN_GRID]
    contact_sheet(in_turn, GRID_COLUMNS).save(folder / "grid.png")


def _file_name(index: int) -> str:
    return f"{index:04d}.png"

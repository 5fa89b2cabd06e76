"""The evaluation with the real pipeline, LoRA files and rewards, on the miniature's networks with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from drtune.config import EvaluationConfig, LoraSection, SamplerConfig, load_config
from drtune.contracts import ADAPTER_FILE, EvaluationReport, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.evaluation import Comparison, choose_prompts, compare, count_truncated, evaluate, noise_seed
from drtune.files import sha256_file
from drtune.miniature.networks import assemble, make_text_encoders, make_unet, make_vae
from drtune.model import add_adapter, save_adapter
from drtune.prompts import Prompt, prepare
from drtune.rewards import Reward, load_reward
from tests.tiny import tokenizer

SETTINGS = EvaluationConfig(sampler=SamplerConfig(steps=2, guidance_scale=2.0), batch_size=4)
PROMPTS = [Prompt(f"a {colour} circle", colour[0]) for colour in ("red", "blue", "black", "green", "grey", "rose")]
OVERRIDES = ["evaluation.sampler.steps=2", "evaluation.batch_size=4", "evaluation.rewards=[symmetry, brightness]"]


class Redness:
    """How much of the picture's light is red."""

    name = "redness"

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == len(images_BCHW)
        return images_BCHW[:, 0].mean((1, 2)) - images_BCHW[:, 1:].mean((1, 2, 3))


class NotANumber(Redness):
    """What a reward gives that has overflowed."""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().__call__(images_BCHW, prompts) / torch.tensor([text != "a blue circle" for text in prompts]) / 0


def small_unet() -> UNet2DConditionModel:
    """The miniature's denoiser at a fraction of its width, for pictures of 16 x 16."""
    small = {"block_out_channels": (8, 16), "attention_head_dim": (1, 2), "norm_num_groups": 4, "sample_size": 4}
    unet: UNet2DConditionModel = UNet2DConditionModel.from_config({**make_unet().config, **small})
    return unet.requires_grad_(False)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    return assemble(make_vae(), small_unet(), make_text_encoders(tokenizer()), tokenizer())


def write_adapter(folder: Path, strength: float) -> Path:
    """A LoRA of the denoiser; with strength 0 it changes nothing, as every LoRA before its first update."""
    unet = small_unet()
    generator = torch.Generator().manual_seed(1)
    for name, weight in add_adapter(unet, LoraSection(rank=2, alpha=2.0), seed=0).items():
        if "lora_B" in name:
            weight.data = strength * torch.randn(weight.shape, generator=generator)
    save_adapter(unet, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"), strength=0.2)


@pytest.fixture(scope="module")
def comparison(pipeline: StableDiffusionXLPipeline, adapter: Path) -> Comparison:
    return compare(pipeline, adapter, PROMPTS, [Redness(), load_reward("symmetry")], SETTINGS)


def pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def test_an_adapter_changes_the_pictures_and_the_scores_follow_them(comparison: Comparison) -> None:
    assert np.abs(pixels(comparison.base.pictures) - pixels(comparison.candidate.pictures)).max() > 10
    for samples in (comparison.base, comparison.candidate):
        rgb = pixels(samples.pictures) / 255
        redness = rgb[..., 0].mean((1, 2)) - rgb[..., 1:].mean((1, 2, 3))
        np.testing.assert_allclose(samples.scores["redness"], redness, atol=2e-3)


def test_an_adapter_that_changes_nothing_gains_exactly_nothing(
    pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    compared = compare(pipeline, write_adapter(tmp_path, strength=0.0), PROMPTS, [Redness()], SETTINGS)
    np.testing.assert_array_equal(compared.base.scores["redness"], compared.candidate.scores["redness"])
    np.testing.assert_array_equal(pixels(compared.base.pictures), pixels(compared.candidate.pictures))


def test_the_pipeline_is_given_back_as_it_was_so_that_a_second_comparison_is_equal(
    pipeline: StableDiffusionXLPipeline, adapter: Path, comparison: Comparison
) -> None:
    again = compare(pipeline, adapter, PROMPTS, [Redness()], SETTINGS)
    for first, second in ((comparison.base, again.base), (comparison.candidate, again.candidate)):
        np.testing.assert_array_equal(first.scores["redness"], second.scores["redness"])
        np.testing.assert_array_equal(pixels(first.pictures), pixels(second.pictures))


def test_a_subset_of_the_prompts_gives_the_same_pictures(
    pipeline: StableDiffusionXLPipeline, adapter: Path, comparison: Comparison
) -> None:
    subset = compare(pipeline, adapter, [PROMPTS[4], PROMPTS[1]], [Redness()], SETTINGS)
    for whole, part in ((comparison.base, subset.base), (comparison.candidate, subset.candidate)):
        difference = pixels([whole.pictures[4], whole.pictures[1]]) - pixels(part.pictures)
        assert np.abs(difference).max() <= 1  # another batch size may round differently


def test_noise_depends_on_the_prompt_and_on_the_seed() -> None:
    seeds = {noise_seed(prompt, seed) for prompt in PROMPTS for seed in (0, 1)}
    assert len(seeds) == 2 * len(PROMPTS)


def test_a_score_that_is_not_finite_stops_the_evaluation_and_names_the_prompt(
    pipeline: StableDiffusionXLPipeline, adapter: Path
) -> None:
    rewards: list[Reward] = [NotANumber()]
    with pytest.raises(ValueError, match="reward redness: not finite for 'a red circle'"):
        compare(pipeline, adapter, PROMPTS[:1], rewards, SETTINGS)


def test_prompts_are_chosen_from_each_category_in_turn() -> None:
    letters = [Prompt(text, text[0]) for text in ("a1", "a2", "a3", "b1", "c1", "c2")]
    assert [prompt.text for prompt in choose_prompts(letters, 5)] == ["a1", "b1", "c1", "a2", "c2"]
    assert len(choose_prompts(letters, 100)) == 6


def test_prompts_beyond_the_text_encoders_limit_are_counted(pipeline: StableDiffusionXLPipeline) -> None:
    limit = pipeline.tokenizer.model_max_length - 2  # less the begin and the end token
    prompts = [Prompt(" ".join(["red"] * words), "") for words in (1, limit, limit + 1, 3 * limit)]
    assert count_truncated(pipeline, prompts) == 2


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    hostile = {"text": "<script>alert(1)</script>", "category": "b", "split": "eval"}
    rows = [hostile, *({"text": prompt.text, "category": prompt.category, "split": "eval"} for prompt in PROMPTS)]
    rows.append({"text": "a training prompt", "category": "r", "split": "train"})
    (folder / "source.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(folder / "source.jsonl", folder / "set")
    return folder / "set"


@pytest.fixture
def model_folder(tmp_path: Path, adapter: Path, prompts_folder: Path, pipeline_folder: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / ADAPTER_FILE).write_bytes((adapter / ADAPTER_FILE).read_bytes())
    config = load_config(None, [f"base_model={pipeline_folder}", *OVERRIDES])
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    TunedModel(
        adapter_sha256=sha256_file(folder / "adapter" / ADAPTER_FILE),
        base_model=config.base_model,
        base_revision=None,
        step=1,
        config_sha256=config.sha256(),
        prompts=PromptSet.load(prompts_folder),
        code_revision=None,
        reward=0.5,
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline_folder(pipeline: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder)
    return folder


def test_evaluate_writes_a_whole_report(model_folder: Path, prompts_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = evaluate(model_folder, prompts_folder, out)

    assert EvaluationReport.load(out) == report
    assert report.num_prompts == 7
    assert [(score.reward, score.category) for score in report.scores] == [
        (reward, category) for reward in ("symmetry", "brightness") for category in (None, "b", "g", "r")
    ]
    table = pd.read_parquet(out / "scores.parquet")
    assert sha256_file(out / "scores.parquet") == report.scores_sha256
    assert list(table.columns) == ["prompt", "category", "image", "reward", "base", "candidate"]
    symmetry = table[table.reward == "symmetry"]
    assert (symmetry.candidate - symmetry.base).mean() == pytest.approx(report.scores[0].gain)
    assert (symmetry.candidate > symmetry.base).mean() == pytest.approx(report.scores[0].win_rate)
    assert "a training prompt" not in set(table.prompt)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "scores.parquet",
        "report.html",
        "grid.png",
        "images",
    }
    for side in ("base", "candidate"):
        for name in symmetry.image:
            with Image.open(out / "images" / side / name) as picture:
                assert picture.size == (16, 16)


def test_the_settings_of_the_evaluation_can_be_set_and_nothing_else(
    model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    few = evaluate(model_folder, prompts_folder, tmp_path / "few", overrides=["evaluation.max_prompts=2"])
    assert few.num_prompts == 2
    with pytest.raises(UserError, match=r"--set steps \(3 here, 80 there\): .* only evaluation\.\* can be set"):
        evaluate(model_folder, prompts_folder, tmp_path / "other", overrides=["steps=3"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", [f"adapter/{ADAPTER_FILE}", "config.yaml"])
def test_a_corrupted_or_missing_file_of_the_model_is_refused(
    name: str, model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    content = bytearray((model_folder / name).read_bytes())
    content[-1] ^= 1
    (model_folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: changed after it was written"):
        evaluate(model_folder, prompts_folder, tmp_path / "report")
    (model_folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        evaluate(model_folder, prompts_folder, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_existing_report_is_kept_unless_overwritten(
    model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    out.mkdir()
    for name in ("manifest.json", "mine.txt"):
        (out / name).touch()
    with pytest.raises(UserError, match="exists already"):
        evaluate(model_folder, prompts_folder, out)
    evaluate(model_folder, prompts_folder, out, overrides=["evaluation.max_prompts=1"], overwrite=True)
    assert not (out / "mine.txt").exists()

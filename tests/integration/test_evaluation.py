"""The evaluation with real pipelines, LoRA files and rewards: every base at tiny size, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from drtune.bases import Base, load_base
from drtune.config import EvaluationConfig, SamplerConfig
from drtune.contracts import ADAPTER, CONFIG, EvaluationReport, TunedModel
from drtune.errors import UserError
from drtune.evaluation import Comparison, choose_prompts, compare, count_truncated, evaluate, noise_seed
from drtune.files import sha256_file
from drtune.images import to_pil
from drtune.prompts import Prompt, prepare
from drtune.rewards import Reward, load_reward
from tests.pipelines import KINDS, SIDE, save_pipeline
from tests.tuned import make_tuned

SETTINGS = EvaluationConfig(sampler=SamplerConfig(steps=2, guidance_scale=2.0, negative_prompt="a star"), batch_size=4)
PROMPTS = [Prompt(f"a {colour} circle", colour[0]) for colour in ("red", "blue", "black", "green", "grey", "rose")]
OVERRIDES = ["evaluation.sampler.steps=2", "evaluation.batch_size=4", "evaluation.rewards=[symmetry, brightness]"]


class Redness:
    """How much of the picture's light is red."""

    name = "redness"
    provenance = ""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == len(images_BCHW)
        assert images_BCHW.dtype == torch.float32
        return images_BCHW[:, 0].mean((1, 2)) - images_BCHW[:, 1:].mean((1, 2, 3))


class NotANumber(Redness):
    """What a reward gives that has overflowed."""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().__call__(images_BCHW, prompts) / torch.tensor([text != "a blue circle" for text in prompts]) / 0


ModelOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """A tuned model of each kind of base, made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        if not (root / kind).exists():
            save_pipeline(kind, root / f"{kind}-base")
            make_tuned(root / kind, str(root / f"{kind}-base"), *OVERRIDES, f"height={SIDE}", f"width={2 * SIDE}")
        return root / kind

    return make


def base_of(model_folder: Path, precision: str = "fp32") -> Base:
    base_model = TunedModel.load(model_folder).base_model
    return load_base(base_model, precision=precision, height=SIDE, width=2 * SIDE)


def compared(
    model_folder: Path, prompts: Sequence[Prompt] = PROMPTS, rewards: Sequence[Reward] = (Redness(),)
) -> Comparison:
    return compare(base_of(model_folder), model_folder, TunedModel.load(model_folder), prompts, rewards, SETTINGS)


@pytest.fixture(scope="module")
def comparison(model_of: ModelOf) -> Comparison:
    return compared(model_of("sdxl"), rewards=[Redness(), load_reward("symmetry", antialias=True)])


def pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def test_an_adapter_changes_the_pictures_and_the_scores_follow_them(comparison: Comparison) -> None:
    assert np.abs(pixels(comparison.base.pictures) - pixels(comparison.candidate.pictures)).max() > 10
    for samples in (comparison.base, comparison.candidate):
        rgb = pixels(samples.pictures) / 255
        redness = rgb[..., 0].mean((1, 2)) - rgb[..., 1:].mean((1, 2, 3))
        np.testing.assert_allclose(samples.scores["redness"], redness, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_base_is_sampled_as_plain_diffusers_would(kind: str, model_of: ModelOf) -> None:
    folder = model_of(kind)
    sides = compared(folder, PROMPTS[:2])
    parts = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3_without_t5" else {}
    plain = DiffusionPipeline.from_pretrained(TunedModel.load(folder).base_model, **parts)
    arguments = {
        "negative_prompt": [SETTINGS.sampler.negative_prompt] * 2,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "height": SIDE,
        "width": 2 * SIDE,
        "output_type": "pt",
    }
    for pictures, tuned in ((sides.base.pictures, False), (sides.candidate.pictures, True)):
        if tuned:
            plain.load_lora_weights(folder / Path(ADAPTER).parent, weight_name=Path(ADAPTER).name)
        noise = [torch.Generator().manual_seed(noise_seed(prompt, SETTINGS.seed)) for prompt in PROMPTS[:2]]
        images = plain([prompt.text for prompt in PROMPTS[:2]], generator=noise, **arguments).images
        assert pictures[0].size == (2 * SIDE, SIDE)
        assert np.abs(pixels(to_pil(images)) - pixels(pictures)).max() <= 1
    assert np.abs(pixels(sides.base.pictures) - pixels(sides.candidate.pictures)).max() > 2


@pytest.mark.filterwarnings("ignore:`upcast_vae`:FutureWarning")  # what SDXL's pipeline does to its VAE in fp16
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["sdxl", "flux_dev"])
def test_pictures_in_half_precision_are_scored_in_fp32(kind: str, precision: str, model_of: ModelOf) -> None:
    folder = model_of(kind)
    model = TunedModel.load(folder)
    sides = compare(base_of(folder, precision), folder, model, PROMPTS[:2], [Redness()], SETTINGS)
    assert np.isfinite(sides.candidate.scores["redness"]).all()


def test_an_adapter_that_changes_nothing_gains_exactly_nothing(model_of: ModelOf, tmp_path: Path) -> None:
    base_model = TunedModel.load(model_of("sdxl")).base_model
    sides = compared(make_tuned(tmp_path / "model", base_model, strength=0.0))
    np.testing.assert_array_equal(sides.base.scores["redness"], sides.candidate.scores["redness"])
    np.testing.assert_array_equal(pixels(sides.base.pictures), pixels(sides.candidate.pictures))


def test_a_second_comparison_is_equal(model_of: ModelOf, comparison: Comparison) -> None:
    again = compared(model_of("sdxl"))
    for first, second in ((comparison.base, again.base), (comparison.candidate, again.candidate)):
        np.testing.assert_array_equal(first.scores["redness"], second.scores["redness"])
        np.testing.assert_array_equal(pixels(first.pictures), pixels(second.pictures))


def test_a_subset_of_the_prompts_gives_the_same_pictures(model_of: ModelOf, comparison: Comparison) -> None:
    subset = compared(model_of("sdxl"), [PROMPTS[4], PROMPTS[1]])
    for whole, part in ((comparison.base, subset.base), (comparison.candidate, subset.candidate)):
        difference = pixels([whole.pictures[4], whole.pictures[1]]) - pixels(part.pictures)
        assert np.abs(difference).max() <= 1  # another batch size may round differently


def test_noise_depends_on_the_prompt_and_on_the_seed() -> None:
    seeds = {noise_seed(prompt, seed) for prompt in PROMPTS for seed in (0, 1)}
    assert len(seeds) == 2 * len(PROMPTS)


def test_a_score_that_is_not_finite_stops_the_evaluation_and_names_the_prompt(model_of: ModelOf) -> None:
    with pytest.raises(ValueError, match="reward redness: not finite for 'a red circle'"):
        compared(model_of("sdxl"), PROMPTS[:1], [NotANumber()])


def test_prompts_are_chosen_from_each_category_in_turn() -> None:
    letters = [Prompt(text, text[0]) for text in ("a1", "a2", "a3", "b1", "c1", "c2")]
    assert [prompt.text for prompt in choose_prompts(letters, 5)] == ["a1", "b1", "c1", "a2", "c2"]
    assert len(choose_prompts(letters, 100)) == 6


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "sd3_without_t5", "flux_dev"])
def test_prompts_beyond_the_text_encoders_limit_are_counted(kind: str, model_of: ModelOf) -> None:
    pipeline = base_of(model_of(kind)).pipeline
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
def model_folder(tmp_path: Path, model_of: ModelOf) -> Path:
    return Path(shutil.copytree(model_of("sdxl"), tmp_path / "model"))


def test_evaluate_writes_a_whole_report(model_folder: Path, prompts_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = evaluate(model_folder, prompts_folder, out)

    assert EvaluationReport.load(out) == report
    assert report.num_prompts == 7
    assert (report.pipeline, report.scheduler) == ("StableDiffusionXLPipeline", "DDIMScheduler")
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
                assert picture.size == (2 * SIDE, SIDE)


def test_the_settings_of_the_evaluation_can_be_set_and_nothing_else(
    model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    few = evaluate(model_folder, prompts_folder, tmp_path / "few", overrides=["evaluation.max_prompts=2"])
    assert few.num_prompts == 2
    with pytest.raises(UserError, match=r"--set steps \(3 here, 80 there\): .* only evaluation\.\* can be set"):
        evaluate(model_folder, prompts_folder, tmp_path / "other", overrides=["steps=3"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", [ADAPTER, CONFIG])
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
    (out / "manifest.json").write_text('{"kind": "EvaluationReport/1"}')
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match="exists already"):
        evaluate(model_folder, prompts_folder, out)
    evaluate(model_folder, prompts_folder, out, overrides=["evaluation.max_prompts=1"], overwrite=True)
    assert not (out / "mine.txt").exists()

"""The evaluation with real pipelines, LoRA files and rewards: every base at tiny size, with random weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from components.monitor.sources import read_scores
from drtune.config import load_config
from drtune.contracts import ADAPTER, CONFIG, EvaluationReport, TunedModel
from drtune.errors import UserError
from drtune.evaluation.contestants import LoadedModel, drawn_contestants
from drtune.evaluation.gathering import batches_of
from drtune.evaluation.measures import Gauges
from drtune.evaluation.run import evaluate
from drtune.files.images import to_pil
from drtune.files.local import sha256_bytes, sha256_file, sha256_folder
from drtune.models.base import Base
from drtune.models.loading import BASES, load_base
from drtune.models.miniature import CHECKPOINT
from drtune.models.tuned import open_tuned, put_on
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import choose_prompts, shots_of
from drtune.rewards import load_reward
from tests.evaluations import OVERRIDES, PROMPTS, ModelOf, prepared
from tests.evaluations import model_of as model_of
from tests.evaluations import prompts_folder as prompts_folder
from tests.pipelines import KINDS, SIDE, on_white, plain_pipeline, save_pipeline, side_of
from tests.tuned import make_tuned


@pytest.fixture(scope="module")
def whole(model_of: ModelOf, prompts_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on all prompts."""
    out = tmp_path_factory.mktemp("whole") / "report"
    evaluate(model_of("sdxl"), prompts_folder, out)
    return out


def pixels(report: Path, contestant: str, name: str) -> np.ndarray:
    with Image.open(report / "images" / contestant / name) as picture:
        return np.asarray(picture).astype(int)


def test_a_report_is_whole(whole: Path) -> None:
    report = EvaluationReport.load(whole)
    assert [one.name for one in report.contestants] == ["candidate", "base"]
    assert (report.num_prompts, report.contestants[0].num_pictures) == (8, 16)
    assert (report.pipeline, report.scheduler) == ("StableDiffusionXLPipeline", "DDIMScheduler")
    assert [(one.name, one.kind) for one in report.measures] == [
        ("symmetry", "trained"),
        ("brightness", "held_out"),
        ("diversity_within", "diversity"),
        ("diversity_across", "diversity"),
        ("drift", "drift"),
        ("cmmd", "drift"),
        ("drift_pixels", "drift"),
        ("luminance", "look"),
        ("contrast", "look"),
        ("saturation", "look"),
        ("sharpness", "look"),
    ]
    assert {score.category for score in report.scores if score.measure == "symmetry"} == {None, "b", "g", "r"}
    assert {score.category for score in report.scores if score.measure == "saturation"} == {None}
    assert report.score("drift") is None  # the base has no distance from itself
    assert {path.name for path in whole.iterdir()} == {
        "manifest.json",
        "config.yaml",
        "scores.parquet",
        "problems.jsonl",
        "report.html",
        "report.md",
        "grid.png",
        "images",
        "thumbnails",
    }
    assert sha256_file(whole / "scores.parquet") == report.scores_sha256
    assert len(report.gained) == len(report.lost) == 4


def test_the_numbers_of_a_report_follow_from_its_table_and_the_table_from_the_pictures(whole: Path) -> None:
    report, table = EvaluationReport.load(whole), pd.read_parquet(whole / "scores.parquet")
    for row in table.to_dict("records"):
        rgb = pixels(whole, row["contestant"], row["image"]) / 255
        assert rgb.shape == (SIDE, 2 * SIDE, 3)
        assert row["brightness"] == pytest.approx((rgb @ [0.299, 0.587, 0.114]).mean(), abs=1e-6)
        assert row["saturation"] == pytest.approx((rgb.max(-1) - rgb.min(-1)).mean(), abs=1e-6)
        base = pixels(whole, "base", row["image"]) / 255
        wanted = np.nan if row["contestant"] == "base" else np.abs(rgb - base).mean()
        assert row["drift_pixels"] == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    means = table.groupby(["contestant", "prompt"])["symmetry"].mean()
    gains = means["candidate"] - means["base"]
    score = report.score("symmetry")
    assert score is not None
    assert score.gain == pytest.approx(gains.mean())
    assert score.win_rate == (gains > 0).mean()
    standing = report.standing("symmetry", "base")
    assert standing is not None
    assert standing.deviation == pytest.approx(means["base"].std(ddof=0))
    watched = read_scores("scores", str(whole / "scores.parquet")).table
    assert list(watched) == [measure.name for measure in report.measures if measure.is_reward]


@pytest.mark.parametrize("kind", KINDS)
def test_every_base_is_sampled_as_plain_diffusers_would(
    kind: str, model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    folder = model_of(kind)
    few = ["evaluation.max_prompts=2", "evaluation.pictures_per_prompt=1", "evaluation.features=none"]
    evaluate(folder, prompts_folder, tmp_path / "report", overrides=few)
    parts = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3_without_t5" else {}
    plain = plain_pipeline(Path(TunedModel.load(folder).base_model), **parts)
    shots = shots_of(choose_prompts(PROMPTS, 2), 1)
    differences = []
    for contestant in ("base", "candidate"):
        if contestant == "candidate":
            plain.load_lora_weights(folder / Path(ADAPTER).parent, weight_name=Path(ADAPTER).name)
        base = BASES[type(plain).__name__]
        images = [
            plain(
                prompt=[shot.prompt.text for shot in batch],
                **({} if kind == "flux2_klein" else {"negative_prompt": ["a star"] * len(batch)}),
                generator=[torch.Generator().manual_seed(shot.noise_seed(0)) for shot in batch],
                num_inference_steps=2,
                **base.guidance_argument(2.0),
                height=side_of(kind),
                width=2 * side_of(kind),
                output_type="pt",
            ).images
            for batch in ([[shot] for shot in shots] if base.draws_alone else [shots])
        ]
        for shot, picture in zip(shots, to_pil(on_white(torch.cat(images))), strict=True):
            drawn = pixels(tmp_path / "report", contestant, f"{shot.name}.png")
            assert np.abs(np.asarray(picture).astype(int) - drawn).max() <= 1
            differences.append(np.abs(drawn - pixels(tmp_path / "report", "base", f"{shot.name}.png")).max())
    assert max(differences[:2]) == 0
    assert min(differences[2:]) > 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["sdxl", "flux_dev"])
def test_models_in_half_precision_are_evaluated(
    kind: str, precision: str, model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    base_model = TunedModel.load(model_of(kind)).base_model
    size = (f"height={SIDE}", f"width={2 * SIDE}", f"compute.precision={precision}", "evaluation.max_prompts=2")
    folder = make_tuned(tmp_path / "model", base_model, *OVERRIDES, *size)
    report = evaluate(folder, prompts_folder, tmp_path / "report")
    assert all(np.isfinite(standing.mean) for standing in report.standings)


def test_an_adapter_that_changes_nothing_gains_exactly_nothing(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    base_model = TunedModel.load(model_of("sdxl")).base_model
    size = (f"height={SIDE}", f"width={2 * SIDE}")
    folder = make_tuned(tmp_path / "model", base_model, *OVERRIDES, *size, strength=0.0)
    report = evaluate(folder, prompts_folder, tmp_path / "report")
    overall = [score for score in report.scores if score.category is None]
    assert {(score.gain, score.gain_low, score.gain_high, score.p_value) for score in overall} == {(0, 0, 0, 1)}
    assert {score.gain for score in report.scores} == {0}
    assert [standing.mean for standing in report.standings if standing.measure == "drift_pixels"] == [0]


def test_a_second_evaluation_is_equal_bit_for_bit(
    model_of: ModelOf, prompts_folder: Path, whole: Path, tmp_path: Path
) -> None:
    evaluate(model_of("sdxl"), prompts_folder, tmp_path / "again")
    assert sha256_folder(tmp_path / "again") == sha256_folder(whole)


@pytest.mark.slow
def test_an_evaluation_that_was_ended_goes_on_where_it_stopped(
    model_of: ModelOf, prompts_folder: Path, whole: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "report", tmp_path / "report.partial"
    command = [sys.executable, "-m", "drtune.cli.main", "evaluate", f"--model={model_of('sdxl')}"]
    with subprocess.Popen(
        [*command, f"--prompts={prompts_folder}", f"--out={out}"], stderr=subprocess.DEVNULL
    ) as running:
        while len(list(partial.glob("measured/*/*.parquet"))) < 2:
            assert running.poll() is None
            time.sleep(0.01)
        running.kill()
    assert not out.exists()
    evaluate(model_of("sdxl"), prompts_folder, out)
    assert sha256_folder(out) == sha256_folder(whole)
    assert not partial.exists()


def test_another_evaluation_does_not_go_on_with_the_batches_of_an_earlier_one(
    model_of: ModelOf, prompts_folder: Path, whole: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "report.partial"
    shutil.copytree(whole / "images", partial / "images")
    (partial / "key").write_text(sha256_bytes(b"another"), encoding="utf-8")
    (partial / "measured" / "base").mkdir(parents=True)
    (partial / "measured" / "base" / "00000.parquet").write_bytes(b"of another")
    evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report")
    assert sha256_folder(tmp_path / "report") == sha256_folder(whole)
    partial.mkdir()
    (partial / "mine.txt").touch()
    with pytest.raises(UserError, match=r"report\.partial: stands where the evaluation works, and is not its own"):
        evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report", overwrite=True)


def test_noise_depends_on_the_prompt_the_picture_and_the_seed() -> None:
    shots = shots_of(PROMPTS, 3)
    assert len({shot.noise_seed(seed) for shot in shots for seed in (0, 1)}) == 2 * 3 * len(PROMPTS)
    assert shots_of(PROMPTS[1:2], 1)[0].noise_seed(0) == shots[3].noise_seed(0)


class Counting:
    """The preference model, and how many pictures it embedded."""

    name, provenance = "preference", ""

    def __init__(self) -> None:
        self.space, self.count = load_reward("preference", antialias=True), 0

    def embed(self, pictures: Sequence[Image.Image], device: torch.device) -> torch.Tensor:
        self.count += len(pictures)
        return self.space.embed(pictures, device)


@pytest.mark.parametrize(
    ("candidate", "champion", "loaded"),
    [
        ("lora", "lora", ["first"]),
        ("lora", "lora on another base", ["first", "second"]),
        ("full", "lora", ["first", "first"]),
        ("lora", "full", ["first"]),
    ],
)
def test_a_base_is_loaded_once_and_a_picture_embedded_once(
    candidate: str, champion: str, loaded: list[str], tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("second", 1)):
        save_pipeline("sd15", tmp_path / name, seed)
    for name, kind, strength in (("candidate", candidate, 0.1), ("champion", champion, 0.2)):
        base = "second" if "another" in kind else "first"
        overrides = [*OVERRIDES, f"height={SIDE}", f"width={SIDE}", f"weights={kind.split()[0]}"]
        make_tuned(tmp_path / name, str(tmp_path / base), *overrides, strength=strength)
    loads: list[str] = []

    def load(base_model: str, *args: object, **settings: object) -> Base:
        loads.append(Path(base_model).name)
        return load_base(base_model, *args, **settings)

    model, config = open_tuned(tmp_path / "candidate")
    holder = LoadedModel(config, [prompt.text for prompt in PROMPTS], load)
    contestants = list(
        drawn_contestants(holder, config.evaluation, tmp_path / "candidate", model, tmp_path / "champion")
    )
    gauges = Gauges(config, tmp_path / "candidate")
    gauges.features = gauges.clip = counting = Counting()
    shots = shots_of(PROMPTS[:3], 2)
    for contestant in contestants:
        for batch in batches_of(contestant, shots, gauges, tmp_path / "out", batch_size=4):
            batch.make()
    assert loads == loaded
    assert counting.count == len(contestants) * len(shots)

    reigning, plain = open_tuned(tmp_path / "champion")
    last = reigning.base_model, reigning.base_revision, (tmp_path / "champion", reigning)
    alone = load_base(plain.base_model, height=SIDE, width=SIDE)
    put_on(alone, tmp_path / "champion", reigning)
    assert holder.become(*last).text_encoders == []  # they would take the memory of the device beside the network
    held = holder.become(*last).network.state_dict()
    wanted = alone.network.state_dict()
    assert held.keys() == wanted.keys()
    assert all(torch.equal(tensor, held[name]) for name, tensor in wanted.items())
    assert loads == loaded


def test_a_base_is_gone_before_the_next_one_is_loaded() -> None:
    networks: list[weakref.ref[torch.nn.Module]] = []

    def load(*args: object, **settings: object) -> Base:
        assert [network() for network in networks] == [None] * len(networks)
        base = load_base(*args, **settings)
        networks.append(weakref.ref(base.network))
        return base

    holder = LoadedModel(load_config(None, ["rewards.brightness=1.0"]), ["a red circle"], load)
    for base_model in ("miniature", str(CHECKPOINT)):
        holder.become(base_model, None)
        assert len(holder.conditions(["a red circle"])["prompt_embeds"]) == len(holder.negative["prompt_embeds"]) == 1
    holder.close()
    assert [network() for network in networks] == [None, None]


def test_prompts_are_chosen_from_each_category_in_turn() -> None:
    letters = [Prompt(text, text[0]) for text in ("a1", "a2", "a3", "b1", "c1", "c2")]
    assert [prompt.text for prompt in choose_prompts(letters, 5)] == ["a1", "b1", "c1", "a2", "c2"]
    assert len(choose_prompts(letters, 100)) == 6


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "sd3_without_t5", "flux_dev"])
def test_prompts_beyond_the_text_encoders_limit_are_counted(kind: str, model_of: ModelOf) -> None:
    base = load_base(TunedModel.load(model_of(kind)).base_model, height=SIDE, width=SIDE)
    limit = base.pipeline.tokenizer.model_max_length - 2  # less the begin and the end token
    assert base.count_truncated([" ".join(["red"] * words) for words in (1, limit, limit + 1, 3 * limit)]) == 2


def test_a_score_that_is_not_finite_stops_the_evaluation_and_names_the_picture(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    unless_blue = "images.new_tensor(['blue' not in prompt for prompt in prompts])"
    reward = f"def broken(images, prompts):\n    return images.mean((1, 2, 3)) / {unless_blue}\n"
    (tmp_path / "broken.py").write_text(reward, encoding="utf-8")
    overrides = [f"evaluation.rewards=['{tmp_path}/broken.py:broken']", "evaluation.batch_size=1"]
    with pytest.raises(UserError, match=r"broken: not finite for base/0001-0\.png"):
        evaluate(model_of("sdxl"), prompts_folder, tmp_path / "report", overrides=overrides)


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path: Path, model_of: ModelOf) -> Path:
    return Path(shutil.copytree(model_of("sdxl"), tmp_path / "model"))


def test_hostile_prompts_stay_text_on_the_page(model_folder: Path, tmp_path: Path) -> None:
    hostile = prepared(tmp_path, [Prompt("<script>alert(1)</script>", "b"), *PROMPTS])
    evaluate(model_folder, hostile, tmp_path / "report", overrides=["evaluation.max_prompts=2"])
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_settings_of_the_evaluation_can_be_set_and_nothing_else(
    model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    overrides = ["evaluation.max_prompts=2", "height=24"]
    few = evaluate(model_folder, prompts_folder, tmp_path / "few", overrides=overrides)
    assert (few.num_prompts, few.height, few.width) == (2, 24, 2 * SIDE)
    assert pixels(tmp_path / "few", "candidate", "0001-1.png").shape == (24, 2 * SIDE, 3)
    told = r"--set steps \(3 here, 80 there\): .* only evaluation\.\*, reward_checkpoints\.\*, height and width can"
    with pytest.raises(UserError, match=told):
        evaluate(model_folder, prompts_folder, tmp_path / "other", overrides=["steps=3"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", [ADAPTER, CONFIG])
def test_a_corrupted_or_missing_file_of_the_model_is_refused(
    name: str, model_folder: Path, prompts_folder: Path, tmp_path: Path
) -> None:
    content = bytearray((model_folder / name).read_bytes())
    content[-1] ^= 1
    (model_folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: is not the one that the model's manifest names"):
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
    (out / "manifest.json").write_text('{"kind": "EvaluationReport/3"}')
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match="exists already"):
        evaluate(model_folder, prompts_folder, out)
    evaluate(model_folder, prompts_folder, out, overrides=["evaluation.max_prompts=1"], overwrite=True)
    assert not (out / "mine.txt").exists()

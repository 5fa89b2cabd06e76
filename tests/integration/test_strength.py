"""The curve over the adapter's strength, drawn by real pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from drtune.contracts import ADAPTER, TunedModel
from drtune.evaluation.run import evaluate
from drtune.files.local import sha256_file
from drtune.prompts.shots import choose_prompts, shots_of
from tests.evaluations import OVERRIDES, PROMPTS, ModelOf
from tests.evaluations import model_of as model_of
from tests.evaluations import prompts_folder as prompts_folder
from tests.pipelines import SIDE, FolderOf
from tests.tuned import make_tuned


def test_the_curve_begins_at_the_base_and_passes_through_the_candidate(
    model_of: ModelOf, prompts_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    wanted = ["evaluation.scale_curve={prompts: 4, scales: [1.5, 0.5, 0, 1]}"]
    report, folder = evaluate(model_of("sdxl"), prompts_folder, out, overrides=wanted), model_of("sdxl")
    without = evaluate(folder, prompts_folder, tmp_path / "without")
    assert sha256_file(out / "scores.parquet") == without.scores_sha256
    assert report.scale_curve is not None
    assert (report.scale_curve.num_prompts, [point.scale for point in report.scale_curve.points]) == (
        4,
        [0, 0.5, 1, 1.5],
    )
    table = pd.read_parquet(out / "scores.parquet")
    few = table[table["prompt"].isin(table["prompt"].unique()[:4])].groupby("contestant")
    base, half, trained, beyond = map(report.at, report.scale_curve.points)
    for at, contestant in ((base, "base"), (trained, "candidate")):
        symmetry, drift = at.standing("symmetry"), at.standing("drift")
        assert symmetry is not None
        assert drift is not None
        assert symmetry.mean == pytest.approx(few["symmetry"].mean()[contestant])
        assert drift.mean == pytest.approx(few["drift"].mean().fillna(0)[contestant], abs=1e-6)
    drifts = [standing.mean for at in (base, half, trained, beyond) if (standing := at.standing("drift"))]
    assert drifts == sorted(drifts)
    score = trained.score("symmetry")
    assert score is not None
    assert score.gain == pytest.approx(few["symmetry"].mean()["candidate"] - few["symmetry"].mean()["base"])

    plain = DiffusionPipeline.from_pretrained(TunedModel.load(folder).base_model)
    plain.load_lora_weights(folder / Path(ADAPTER).parent, weight_name=Path(ADAPTER).name, adapter_name="mine")
    plain.set_adapters("mine", 0.5)
    shot = shots_of(choose_prompts(PROMPTS, 1), 1)[0]
    image = plain(
        shot.prompt.text,
        negative_prompt="a star",
        generator=torch.Generator().manual_seed(shot.noise_seed(0)),
        num_inference_steps=2,
        guidance_scale=2.0,
        height=SIDE,
        width=2 * SIDE,
    ).images[0]
    with Image.open(out / "images" / "candidate@0.5" / f"{shot.name}.png") as drawn:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(drawn).astype(int)).max() <= 1
    assert "Strength of the adapter" in (out / "report.html").read_text(encoding="utf-8")


def test_full_weights_have_no_strength(tmp_path: Path, prompts_folder: Path, folder_of: FolderOf) -> None:
    size = (f"height={SIDE}", f"width={SIDE}")
    overrides = [*OVERRIDES, *size, "weights=full", "evaluation.max_prompts=1", "evaluation.scale_curve.prompts=1"]
    folder = make_tuned(tmp_path / "model", str(folder_of("sd15")), *overrides)
    report = evaluate(folder, prompts_folder, tmp_path / "report")
    assert report.scale_curve is None
    assert report.notes == ("no curve over the adapter's strength: all weights were tuned, which have none",)

"""Spaces of features: DINOv2 in its published layout at tiny size, CMMD by its formula, and what absent weights do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from drtune.config import load_config
from drtune.errors import UserError
from drtune.evaluation.cmmd import cmmd_by_prompt
from drtune.evaluation.features import Dinov2, Spaces
from drtune.evaluation.measures import Gauges
from drtune.files.images import to_pil, to_tensor
from drtune.rewards import load_reward
from drtune.rewards.weights import MIRROR
from tests.words import random_images


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny random DINOv2, and no CLIP."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "facebook" / "dinov2-base")
    monkeypatch.setenv(MIRROR, str(tmp_path))
    return tmp_path


def test_dinov2_sees_the_centre_of_the_resized_picture_in_imagenets_colours(mirror: Path) -> None:
    model = Dinov2Model.from_pretrained(mirror / "facebook" / "dinov2-base").eval()
    pictures = to_pil(random_images(2, 3, 320, 480))
    cropped = [one.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240)) for one in pictures]
    mean, deviation = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        pixels = (to_tensor(cropped) - mean) / deviation
        wanted = torch.nn.functional.normalize(model(pixel_values=pixels).pooler_output, dim=-1)
        found = Dinov2.load().embed([pictures[0], pictures[1].convert("RGBA")], torch.device("cpu"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_real_base_is_measured_by_dinov2_and_what_is_not_to_be_had_is_said(mirror: Path) -> None:
    config = load_config(None, ["base_model=some/base", "evaluation.rewards=[brightness]"])
    gauges = Gauges(config, mirror)
    assert [one.name for one in gauges.measures if one.kind in ("diversity", "drift")] == [
        "diversity_within",
        "diversity_across",
        "drift",
        "drift_pixels",
    ]
    assert "facebook/dinov2-base model.safetensors sha256" in gauges.measures[2].provenance
    [note] = gauges.notes
    assert note.startswith("no CMMD: ")
    assert "hf download openai/clip-vit-large-patch14" in note
    images = random_images(1, 3, 32, 32)
    [row] = gauges.read(to_pil(images), images, ["a cat"], ["0.png"])
    assert len(row["features"]) == 32
    (mirror / "facebook" / "dinov2-base" / "model.safetensors").unlink()
    spaces = Spaces(config, [])
    assert (spaces.features, spaces.clip) == (None, None)
    assert [note.split(":")[0] for note in spaces.notes] == ["no diversity and drift in features", "no CMMD"]
    with pytest.raises(UserError, match="hf download facebook/dinov2-base"):
        Spaces(load_config(None, ["base_model=some/base", "evaluation.features=dinov2"]), [])


def test_the_miniature_has_one_space_for_all() -> None:
    preference = load_reward("preference", antialias=True)
    spaces = Spaces(load_config(None, []), [preference])
    assert spaces.features is spaces.clip is preference
    nothing = Spaces(load_config(None, ["evaluation.features=none"]), [preference])
    assert (nothing.features, nothing.clip, nothing.notes) == (None, None, [])


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_cmmd_of_one_picture_a_prompt_is_the_unbiased_estimator() -> None:
    rng = np.random.default_rng(0)
    own, base, everyone = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(7, 5)) + 1), np.arange(7)
    # In Gretton et al. 2012, "A Kernel Two-Sample Test", equation 4.
    kernel = {
        (one, other): np.exp(-((x[:, None] - y) ** 2).sum(-1) / (2 * 10**2))
        for one, x in (("own", own), ("base", base))
        for other, y in (("own", own), ("base", base))
    }
    h = kernel["own", "own"] + kernel["base", "base"] - kernel["own", "base"] - kernel["base", "own"]
    wanted = 1000 * h[~np.eye(7, dtype=bool)].mean()
    assert cmmd_by_prompt(own, everyone, base, everyone).mean() == pytest.approx(wanted)


def test_cmmd_is_zero_on_average_where_nothing_changed_and_the_distance_of_the_means_where_something_did() -> None:
    rng = np.random.default_rng(1)
    place = np.repeat(np.arange(20), 2)

    def drawn(shift: float) -> np.ndarray:  # pictures of one prompt are alike
        return unit(np.eye(8)[0] * shift + np.repeat(rng.normal(size=(20, 8)), 2, axis=0) + rng.normal(size=(40, 8)))

    def distances(shift: float) -> np.ndarray:
        return np.array([cmmd_by_prompt(drawn(shift), place, drawn(0.0), place).mean() for _ in range(300)])

    unchanged = distances(0.0)
    assert abs(unchanged.mean()) < 3 * unchanged.std() / np.sqrt(300)
    assert unchanged.min() < 0
    apart = np.linalg.norm(np.mean([drawn(2.0).mean(0) - drawn(0.0).mean(0) for _ in range(300)], axis=0))
    assert distances(2.0).mean() == pytest.approx(10 * apart**2, rel=0.02)

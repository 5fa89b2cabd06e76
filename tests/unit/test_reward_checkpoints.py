"""Weights of your own in place of the published ones, for every reward that has some."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from drtune.cli.main import main
from drtune.config import PUBLISHED, Config, load_config
from drtune.errors import UserError
from drtune.evaluation.measures import Gauges
from drtune.rewards import WeightedSum, load_reward
from tests.unit.test_every_reward import CASES, openai_mirror, openclip_mirror, weights  # noqa: F401 fixtures

WHERE = {
    "arniqa": "chaofengc/IQA-PyTorch-Weights/ARNIQA.pth",
    "aesthetic": "camenduru/improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth",
    "hps": "xswu/HPSv2/HPS_v2.1_compressed.pt",
    "hps_v2": "xswu/HPSv2/HPS_v2_compressed.pt",
    "hpsv3": "MizzenAI/HPSv3/HPSv3.safetensors",
    "pickscore": "yuvalkirstain/PickScore_v1/model.safetensors",
    "clipscore": "openai/clip-vit-large-patch14/model.safetensors",
    "imagereward": "THUDM/ImageReward/ImageReward.pt",
    "vqascore": "Qwen/Qwen2.5-VL-7B-Instruct/model.safetensors.index.json",
}
RENAMED = ("aesthetic", "arniqa", "hps", "hpsv3", "pickscore", "imagereward")
"""Those whose file may have any name, each by another way in the code."""


@pytest.fixture
def mirror(name: str, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A mirror of one reward's files, to change."""
    published = tmp_path / "published"
    shutil.copytree(weights[name], published)
    monkeypatch.setenv("DRTUNE_REWARDS", str(published))
    return published


def moved(name: str, mirror: Path) -> Path:
    """The folder to which all files of the weights' repository are moved."""
    mine = mirror.parent / "mine"
    shutil.move(mirror / WHERE[name].rpartition("/")[0], mine)
    return mine


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_takes_the_place_of_the_repository(name: str, mirror: Path) -> None:
    case = CASES[name]
    images, prompts = case.images[:1], case.prompts[:1]
    published = load_reward(name, antialias=True)
    mine = moved(name, mirror)
    own = load_reward(name, antialias=True, checkpoint=mine)
    assert torch.equal(own(images, prompts), published(images, prompts))
    with pytest.raises(UserError, match="DRTUNE_REWARDS"):
        load_reward(name, antialias=True)


@pytest.mark.parametrize("name", RENAMED)
def test_a_file_may_have_any_name_and_is_told_with_the_scores(name: str, mirror: Path) -> None:
    published = load_reward(name, antialias=True)
    mine, file = moved(name, mirror), WHERE[name].rpartition("/")[2]
    renamed = (mine / file).rename(mine / f"run-7{Path(file).suffix}")
    own = load_reward(name, antialias=True, checkpoint=renamed)
    assert own.provenance == published.provenance.replace(file, renamed.name)


@pytest.mark.parametrize("name", ["pickscore"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.update({"logit_scale": torch.zeros(3)}), r"\(logit_scale is \(3,\), not \(\)\)"),
        (lambda state: state.pop("visual_projection.weight"), r"\(visual_projection\.weight is missing\)"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused_by_the_weight_that_does_not_fit(
    mirror: Path, change, told: str
) -> None:
    file = mirror / WHERE["pickscore"]
    state = load_file(file)
    change(state)
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"^reward pickscore: {file} cannot be loaded {told}; take another copy"):
        load_reward("pickscore", antialias=True, checkpoint=file)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            "reward_checkpoints.symmetry=x",
            "'symmetry' takes no checkpoint; those with published weights do: ",
        ),
        ("reward_checkpoints.hps=", "reward_checkpoints.hps"),
        ("reward_checkpoints={hpss: x}", "'hpss' takes no checkpoint"),
    ],
)
def test_what_takes_no_checkpoint_is_refused_by_name(overrides: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config(None, [overrides])


def test_a_checkpoint_that_is_not_there_is_told_with_what_is_wanted(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "mine.pt"
    with pytest.raises(UserError, match=f"^reward imagereward: checkpoint {nowhere} is not there; give a file, or a "):
        load_reward("imagereward", antialias=True, checkpoint=nowhere)
    (mine := tmp_path / "mine.pt").touch()
    for name, checkpoint, missing in (("imagereward", mine, "med_config.json"), ("hps", tmp_path, WHERE["hps"][11:])):
        with pytest.raises(UserError, match=f"{checkpoint} needs {tmp_path / missing}, which is not there; get"):
            load_reward(name, antialias=True, checkpoint=checkpoint)
    with pytest.raises(UserError, match=r"^reward symmetry: takes no checkpoint x; those that do: aesthetic, "):
        load_reward("symmetry", antialias=True, checkpoint="x")


@pytest.mark.parametrize("name", ["aesthetic"])
def test_one_setting_counts_in_tuning_and_in_the_evaluation_and_from_the_command_line(
    name: str, mirror: Path, tmp_path: Path
) -> None:
    head = mirror / WHERE[name]
    mine = head.rename(tmp_path / "mine.pth")
    overrides = ["rewards={aesthetic: 1}", f"reward_checkpoints.aesthetic={mine}", "evaluation.features=none"]
    config: Config = load_config(None, overrides)
    assert config.reward_checkpoints == {"aesthetic": str(mine)}
    tuned_on = WeightedSum.load(
        config.rewards, antialias=config.reward_antialias, checkpoints=config.reward_checkpoints
    ).terms[0][0]
    measured = next(one for one in Gauges(config, tmp_path).rewards if one.name == name)
    assert tuned_on.provenance == measured.provenance
    assert tuned_on.provenance.startswith("mine.pth sha256 ")

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "0.png")
    (tmp_path / "prompts.csv").write_text("text,image\na dog,0.png\n", encoding="utf-8")
    asked = ["score", str(tmp_path / "pictures"), "--prompts", str(tmp_path / "prompts.csv"), "--reward", name]
    asked += ["--out", str(tmp_path / "scores.csv"), "--checkpoint"]
    done = CliRunner().invoke(main, [*asked, f"aesthetic={mine}"], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"aesthetic: {measured.provenance}" in done.output
    for given, told in (("hps=x", "--checkpoint hps: is not scored by"), ("hps", "--checkpoint hps: is no NAME=PATH")):
        refused = CliRunner().invoke(main, [*asked, given, "--overwrite"])
        assert refused.exit_code != 0
        assert told in str(refused.output) + str(refused.exception)

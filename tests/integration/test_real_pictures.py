"""Tuning from real pictures: which are taken, what is refused, and that a run goes on from the same alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from drtune.config import load_config
from drtune.contracts import TunedModel
from drtune.errors import UserError
from drtune.files.images import to_pil
from drtune.models.miniature.world import draw, scenes
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.pictures import RealPictures
from drtune.training.trainer import train
from tests.trainings import SHORT, trainer_of

SCENES = scenes(seed=7, count=24)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Drawings of the miniature's world, twice as wide as high, with their captions."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    rows = []
    for index, (scene, picture) in enumerate(zip(SCENES, to_pil(draw(SCENES, seed=1)), strict=True)):
        wide = Image.new("RGB", (64, 32))
        wide.paste(picture, (16, 0))
        wide.save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": scene.caption})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    prepare(folder / "metadata.csv", tmp_path / "set")
    return folder


def test_the_pictures_of_the_prompts_are_what_is_renoised(drawn: Path, tmp_path: Path) -> None:
    settings = [*SHORT, "method={name: srpo, early_stop: 2}", f"method.pictures={drawn}", "steps=2"]
    trainer = trainer_of(settings, tmp_path / "set", tmp_path / "out")
    base, chosen = trainer.base, [2, 0]
    assert trainer.pictures is not None
    decoded = base.decode(trainer.pictures.latents(base, chosen))
    texts = [scene.caption for scene in SCENES]
    of = [texts.index(trainer.texts[index]) for index in chosen]
    wanted = draw(SCENES, seed=1)[of]
    assert (decoded - wanted).square().mean() < 0.1 * wanted.var()  # the middle of the picture, through the VAE

    model = train(load_config(None, settings), tmp_path / "set", tmp_path / "run")
    assert model.pictures_sha256 == trainer.pictures.sha256 == TunedModel.load(tmp_path / "run").pictures_sha256
    with Image.open(drawn / "3.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(drawn / "3.png")
    for more in ([], ["steps=3"]):  # finished as it is, or not yet
        with pytest.raises(UserError, match=r"method\.pictures=.* holds other pictures than the run began from; give"):
            train(load_config(None, [*settings, *more]), tmp_path / "set", tmp_path / "run", resume=True)


def test_what_cannot_be_used_is_named_before_the_first_update(drawn: Path, tmp_path: Path) -> None:
    texts = [prompt.text for prompt in open_prompts(tmp_path / "set").train]
    (drawn / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"drawn: 0\.png: corrupt; mend it, or take it out with its prompt"):
        RealPictures(str(drawn), [SCENES[0].caption]).check([0])
    with pytest.raises(UserError, match=r"has no picture of 1 of the \d+ prompts to train on, such as 'a cat'"):
        RealPictures(str(drawn), [*texts, "a cat"])
    (drawn / "metadata.csv").unlink()
    with pytest.raises(UserError, match=r"^method\.pictures=.*drawn: wanted one file of prompts in drawn/ and found"):
        RealPictures(str(drawn), texts)
    with pytest.raises(UserError, match=r"^method\.pictures=nowhere: is no folder and no \.zip"):
        train(load_config(None, ["method={name: srpo, pictures: nowhere}"]), tmp_path / "set", tmp_path / "out")

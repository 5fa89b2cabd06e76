"""Pictures drawn with a tuned model: the same again, what the files say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageChops

from drtune.cli.main import main
from drtune.errors import UserError
from drtune.files.local import sha256_folder
from drtune.models.sample_set import SampleSet, SampleSettings, write_sample_set
from drtune.prompts.prepare import read_prompts
from tests.pipelines import FolderOf, side_of
from tests.tuned import make_tuned

PROMPTS = ("a red circle", "a blue square, on the left!")
SHORT = {"steps": 2}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tuned(tmp_path_factory.mktemp("tuned") / "model", "miniature", "lora.alpha=4")


def difference(one: Path, other: Path) -> int:
    """The largest difference of two pictures, of 255."""
    extrema = ImageChops.difference(Image.open(one), Image.open(other)).getextrema()
    return max(high for _, high in extrema)


def test_the_same_options_draw_the_same_files(tuned: Path, tmp_path: Path) -> None:
    settings = SampleSettings(**SHORT, seed=5, count=2, grid=True)
    for out in ("one", "other"):
        write_sample_set(PROMPTS, str(tmp_path / out), settings, model_folder=str(tuned))
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "other")


def test_a_picture_does_not_hang_on_what_else_is_drawn(tuned: Path, tmp_path: Path) -> None:
    write_sample_set(PROMPTS, tmp_path / "many", SampleSettings(**SHORT, count=2), model_folder=tuned)
    write_sample_set(PROMPTS[:1], tmp_path / "one", SampleSettings(**SHORT, seed=1), model_folder=tuned)
    name = "000-a-red-circle-seed-1.png"
    assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_files_and_manifest_say_what_was_drawn(tuned: Path, tmp_path: Path) -> None:
    drawn = write_sample_set(PROMPTS, tmp_path / "out", SampleSettings(**SHORT, guidance_scale=2.0), model_folder=tuned)
    assert SampleSet.load(tmp_path / "out") == drawn
    assert [picture.file for picture in drawn.pictures] == [
        "000-a-red-circle-seed-0.png",
        "001-a-blue-square-on-the-left-seed-0.png",
    ]
    assert drawn.arguments == {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 2.0}
    with Image.open(tmp_path / "out" / drawn.pictures[1].file) as image:
        assert image.text["prompt"] == PROMPTS[1]
        assert image.text["seed"] == "0"
        assert '"guidance_scale":2.0' in image.text["drtune"]


def test_pictures_are_drawn_in_any_size(tuned: Path, tmp_path: Path) -> None:
    settings = SampleSettings(**SHORT, compare=True, width=48)
    drawn = write_sample_set(PROMPTS[:1], tmp_path / "out", settings, model_folder=tuned)
    assert drawn.arguments == {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 3.0}
    for picture in drawn.pictures:
        with Image.open(tmp_path / "out" / picture.file) as image:
            assert image.size == (48, 32)


def test_a_comparison_puts_the_base_beside_the_tuned_model(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawn = write_sample_set(PROMPTS, out, SampleSettings(**SHORT, compare=True), model_folder=tuned)
    assert [picture.tuned for picture in drawn.pictures] == [False, False, True, True]
    base, other = out / "base" / drawn.pictures[2].file, out / drawn.pictures[2].file
    assert difference(base, other) > 5
    with Image.open(out / "grid.png") as grid, Image.open(base) as left:
        assert grid.size == (4 * 256 + 3 * 4, 256 + 16)  # with their captions
        assert grid.crop((0, 0, 256, 256)).tobytes() == left.resize((256, 256), Image.Resampling.NEAREST).tobytes()


def test_an_adapter_scaled_to_nothing_is_the_base(tuned: Path, tmp_path: Path) -> None:
    write_sample_set(PROMPTS[:1], tmp_path / "scaled", SampleSettings(**SHORT, lora_scale=0.0), model_folder=tuned)
    settings = SampleSettings(**SHORT, guidance_scale=3.0)
    drawn = write_sample_set(PROMPTS[:1], tmp_path / "base", settings, base_model="miniature")
    assert drawn.weights_sha256 is None
    [picture] = drawn.pictures
    assert difference(tmp_path / "scaled" / picture.file, tmp_path / "base" / picture.file) == 0


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_every_base_can_be_drawn_with(kind: str, folder_of: FolderOf, tmp_path: Path) -> None:
    base = str(folder_of(kind))
    negative = "" if kind == "flux2_klein" else "blurred"
    side = side_of(kind)
    overrides = [f"height={side}", f"width={2 * side}", f"evaluation.sampler.negative_prompt={negative}"]
    model = make_tuned(tmp_path / "model", base, *overrides)
    drawn = write_sample_set(PROMPTS[:1], tmp_path / "out", SampleSettings(**SHORT, lora_scale=0.5), model_folder=model)
    with Image.open(tmp_path / "out" / drawn.pictures[0].file) as image:
        assert image.size == (2 * side, side)


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text("prompt\tstyle\na cat\tphoto\na dog\tphoto\na cat\tphoto\n")
    assert read_prompts(tmp_path / "prompts.tsv") == ["a cat", "a dog"]
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


def test_full_weights_have_nothing_to_scale(folder_of: FolderOf, tmp_path: Path) -> None:
    model = make_tuned(tmp_path / "model", str(folder_of("sd15")), "weights=full")
    with pytest.raises(UserError, match=r"lora_scale=0\.5: there is no adapter"):
        write_sample_set(PROMPTS, tmp_path / "out", SampleSettings(lora_scale=0.5), model_folder=model)
    write_sample_set(PROMPTS[:1], tmp_path / "out", SampleSettings(**SHORT), model_folder=model)


def test_the_command_draws(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--prompt", "a red circle", "--steps", "2", "--compare", "--out", str(out)]
    result = CliRunner().invoke(main, ["sample", "--model", str(tuned), *options])
    assert result.exit_code == 0
    assert result.stdout == f"pictures: 2 in {out}\n"
    again = CliRunner().invoke(main, ["sample", "--model", str(tuned), *options])
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr

"""VQAScore: a tiny random Qwen2.5-VL as published, against what its processor and `generate` make of a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from drtune.errors import UserError
from drtune.files.images import to_tensor
from drtune.rewards import load_reward, score_finished
from drtune.rewards.preprocessing import SmartResize
from tests.qwen import TEMPLATE, shaken, sizes, words, write_shards
from tests.words import picture, random_images

REPOSITORY = "Qwen/Qwen2.5-VL-7B-Instruct"
VISION = {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "out_hidden_size": 32}


def tiny() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(3)
    vision = VISION | {"window_size": 56, "fullatt_block_indexes": [1]}
    return shaken(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**sizes(words()), vision_config=vision)))


def write_mirror(folder: Path) -> None:
    (folder / REPOSITORY).mkdir(parents=True)
    write_shards(tiny(), folder / REPOSITORY)
    words().save_pretrained(folder / REPOSITORY)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mirror(tmp_path)
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    return tmp_path / REPOSITORY


def fitted(image: Image.Image, least: int, most: int) -> Image.Image:
    """The resizing of qwen-vl-utils."""
    rows, columns = (max(28, round(length / 28) * 28) for length in (image.height, image.width))
    if rows * columns > most:
        shrink = math.sqrt(image.height * image.width / most)
        rows, columns = (math.floor(length / shrink / 28) * 28 for length in (image.height, image.width))
    elif rows * columns < least:
        grow = math.sqrt(least / (image.height * image.width))
        rows, columns = (math.ceil(length * grow / 28) * 28 for length in (image.height, image.width))
    return image.convert("RGB").resize((columns, rows), Image.Resampling.BICUBIC)


def original(image: Image.Image, prompt: str) -> float:
    """VQAScore's `forward`: template, image processor, one step of `generate`, the probability of its scores."""
    model, tokenizer = tiny(), words()
    processor = Qwen2VLImageProcessorPil()
    seen = processor([fitted(image, 4 * 28 * 28, 16384 * 28 * 28)], do_resize=False, return_tensors="pt")
    question = f'Does this figure show "{prompt}"? Please answer Yes or No.'
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = tokenizer.apply_chat_template(asked, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
    marks = int(seen.image_grid_thw.prod()) // 4
    tokens = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * marks), return_tensors="pt")
    answer = model.generate(
        **tokens,
        pixel_values=seen.pixel_values.double(),
        image_grid_thw=seen.image_grid_thw,
        mm_token_type_ids=(tokens.input_ids == words().convert_tokens_to_ids("<|image_pad|>")).int(),
        max_new_tokens=1,
        do_sample=False,
        repetition_penalty=1.05,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return float(answer.scores[0][0].double().softmax(-1)[tokenizer.convert_tokens_to_ids("Yes")])


@pytest.mark.parametrize(("height", "width"), [(28, 28), (30, 100), (1216, 832), (1024, 1024), (20, 20), (40, 20)])
def test_a_picture_is_seen_at_multiples_of_28_as_qwens_tools_see_it(height: int, width: int) -> None:
    image = picture(width, height)
    for least, most in ((4 * 28 * 28, 16384 * 28 * 28), (256 * 28 * 28, 256 * 28 * 28)):
        seen = SmartResize(28, True, least, most).of_pictures([image])
        wanted = Qwen2VLImageProcessorPil()([fitted(image, least, most)], do_resize=False, return_tensors="pt")
        assert [length // 14 for length in seen.shape[-2:]] == wanted.image_grid_thw[0, 1:].tolist()
        first, top = wanted.pixel_values[0].reshape(3, 2, 14, 14), seen[0, :, :14, :14]
        torch.testing.assert_close(first, torch.stack([top, top], dim=1))


def test_while_a_picture_is_made_it_is_seen_within_pillows_rounding(mirror: Path) -> None:
    assert mirror.is_dir()
    image = picture(75, 50)
    see = load_reward("vqascore", antialias=True).preprocessing
    apart = (see.of_images(to_tensor([image])) - see.of_pictures([image])).abs().max()
    assert 0 < apart * 255 * 0.27 < 1.25  # grey levels


def test_the_score_is_what_the_original_makes_of_the_file(mirror: Path) -> None:
    reward = load_reward("vqascore", antialias=True)
    image = picture(100, 70)
    prompts = ['a "red" {circle}', "nothing"]
    scores = score_finished(reward, [image] * 2, to_tensor([image] * 2), prompts)
    assert scores.tolist() == pytest.approx([original(image, prompt) for prompt in prompts], rel=1e-4)
    assert abs(scores[0] - scores[1]) > 0.01 * scores[0]
    shards = sorted(mirror.glob("*.safetensors"))
    assert len(shards) > 2
    assert f"{shards[0].name} and the {len(shards) - 1} after it sha256 " in reward.provenance


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "names no weights"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
            "names no weights",
        ),
        (
            lambda folder: min(folder.glob("*.safetensors")).unlink(),
            "has no .*model-00001.* `hf download .* --revision cc59489",
        ),
        (lambda folder: min(folder.glob("*.safetensors")).write_bytes(b"no"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no .*tokenizer.json"),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps(json.loads((folder / "config.json").read_text()) | {"intermediate_size": 64})
            ),
            "cannot be loaded",
        ),
    ],
)
def test_files_that_are_no_such_network_are_refused_in_one_line(mirror: Path, break_it, told: str) -> None:
    break_it(mirror)
    with pytest.raises(UserError, match=f"reward vqascore: .*{told}") as refusal:
        load_reward("vqascore", antialias=True)
    assert "\n" not in str(refusal.value)


def test_a_prompt_that_would_pass_for_the_picture_is_refused(mirror: Path) -> None:
    assert mirror.is_dir()
    with pytest.raises(
        UserError, match=r"^prompts: one has <\|image_pad\|> in it, which stands for the picture here; take"
    ):
        load_reward("vqascore", antialias=True)(random_images(1, 3, 56, 56), ["a dog <|image_pad|>"])


def test_the_gradient_reaches_every_pixel(mirror: Path) -> None:
    assert mirror.is_dir()
    images = random_images(1, 3, 56, 84).requires_grad_()
    load_reward("vqascore", antialias=True)(images, ["a dog"]).sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).all()

"""HPSv3: a tiny random network as published, against the steps of the original's `reward`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from drtune.errors import UserError
from drtune.files.images import to_tensor
from drtune.rewards import load_reward, score_finished
from drtune.rewards.hpsv3 import QUESTION
from tests.qwen import END, TEMPLATE, shaken, sizes, words, write_sizes
from tests.unit.test_vqascore import fitted
from tests.words import picture

BASE, FILE = "Qwen/Qwen2-VL-7B-Instruct", "MizzenAI/HPSv3/HPSv3.safetensors"
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
PROMPTS = ['a "red" {circle}', "nothing"]


def tokenizer() -> Qwen2Tokenizer:
    marked = words(QUESTION)
    marked.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    return marked


def base() -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(5)
    return shaken(Qwen2VLForConditionalGeneration(Qwen2VLConfig(**sizes(words(QUESTION)), vision_config=VISION)))


def head() -> nn.Sequential:
    """As hpsv3/model/qwen2vl_trainer.py makes it for the type "ranknet" without settings; idle dropout is left in."""
    torch.manual_seed(6)
    layers = [nn.Linear(32, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)]
    return nn.Sequential(*layers).double().eval()


def write_mirror(folder: Path) -> None:
    """The base's sizes and words; and the checkpoint, whose matrices of words were cut to the words and the mark."""
    (folder / BASE).mkdir(parents=True)
    (folder / FILE).parent.mkdir(parents=True)
    model = base()
    write_sizes(model, folder / BASE)
    words(QUESTION).save_pretrained(folder / BASE)
    model.resize_token_embeddings(len(tokenizer()))
    names = {"model.visual.": "visual.", "model.language_model.": "model."}
    state = {f"rm_head.{key}": tensor for key, tensor in head().state_dict().items()}
    for key, tensor in model.state_dict().items():
        new, old = next(((new, old) for new, old in names.items() if key.startswith(new)), ("", ""))
        state[old + key.removeprefix(new)] = tensor
    save_file(state, folder / FILE)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mirror(tmp_path)
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    return tmp_path


@torch.no_grad()
def original(images: Sequence[Image.Image], prompts: Sequence[str], scramble: bool = False) -> Tensor:
    """`reward` of hpsv3 1.0.0: both outputs (B, 2) of a batch, padded on the right, at the mark.

    (hpsv3/inference.py, `prepare_batch`; model/qwen2vl_trainer.py, `forward`, whose language model gets no positions.)
    With `scramble`, positions are Qwen2-VL's own, of rows and columns, as they are not in the original.
    """
    model, marked = base(), tokenizer()
    model.resize_token_embeddings(len(marked))
    seen = Qwen2VLImageProcessorPil()(
        [fitted(image, 256 * 28 * 28, 256 * 28 * 28) for image in images], do_resize=False, return_tensors="pt"
    )
    texts = []
    for prompt, grid in zip(prompts, seen.image_grid_thw, strict=True):
        asked = [{"type": "image"}, {"type": "text", "text": QUESTION.format(text_prompt=prompt)}]
        message = [{"role": "user", "content": asked}]
        text = marked.apply_chat_template(message, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
        texts.append(text.replace("<|image_pad|>", "<|image_pad|>" * (int(grid.prod()) // 4)))
    marked.pad_token = END
    tokens = marked(texts, padding=True, padding_side="right", return_tensors="pt")
    embedded = model.model.language_model.embed_tokens(tokens.input_ids)
    image_token = marked.convert_tokens_to_ids("<|image_pad|>")
    features = model.model.visual(seen.pixel_values.double(), grid_thw=seen.image_grid_thw).pooler_output
    embedded = embedded.masked_scatter((tokens.input_ids == image_token)[..., None], features)
    positions = None
    if scramble:
        kinds = (tokens.input_ids == image_token).int()
        positions, _ = model.model.get_rope_index(
            tokens.input_ids, kinds, image_grid_thw=seen.image_grid_thw, attention_mask=tokens.attention_mask
        )
    made = model.model.language_model(
        inputs_embeds=embedded, attention_mask=tokens.attention_mask, position_ids=positions
    ).last_hidden_state
    return head()(made)[tokens.input_ids == marked.convert_tokens_to_ids("<|Reward|>")]


def test_the_question_is_the_originals_to_the_last_space() -> None:
    assert hashlib.sha256(QUESTION.encode()).hexdigest().startswith("f6ee57479d4e9eee")
    assert QUESTION.format(text_prompt="{x}").endswith(
        "Textual prompt - {x}\n\n\n\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n"
    )


def test_the_score_is_what_the_original_makes_of_a_batch_of_files(mirror: Path) -> None:
    reward = load_reward("hpsv3", antialias=True)
    image = picture(100, 70)
    scores = score_finished(reward, [image] * 2, to_tensor([image] * 2), PROMPTS)
    assert scores.tolist() == pytest.approx(original([image] * 2, PROMPTS)[:, 0].tolist(), rel=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3 * abs(scores[0])
    elsewhere = original([image] * 2, PROMPTS, scramble=True)[:, 0].tolist()
    assert scores.tolist() != pytest.approx(elsewhere, rel=1e-3)
    digest = hashlib.sha256((mirror / FILE).read_bytes()).hexdigest()
    assert reward.provenance == f"HPSv3.safetensors sha256 {digest}, resized by Pillow in 8 bits"


def test_it_computes_in_the_precision_that_is_published_and_its_head_in_single(mirror: Path) -> None:
    halves = {
        key: weight.float() if "rm_head" in key else weight.bfloat16()
        for key, weight in load_file(mirror / FILE).items()
    }
    save_file(halves, mirror / FILE)
    image = picture(60, 40)
    reward = load_reward("hpsv3", antialias=True)
    pixels = to_tensor([image]).requires_grad_()
    score = reward(pixels, ["nothing"])
    assert score.dtype == torch.float32
    assert score.item() == pytest.approx(original([image], ["nothing"])[0, 0].item(), abs=5e-3)
    score.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()
    assert (pixels.grad != 0).float().mean() > 0.99


def test_the_mark_in_a_prompt_is_a_part_of_the_prompt(mirror: Path) -> None:
    assert mirror.is_dir()
    image = picture(40, 40)
    reward = load_reward("hpsv3", antialias=True)
    score = score_finished(reward, [image], to_tensor([image]), ["the word <|Reward|>"])
    assert score.item() == pytest.approx(original([image], ["the word <|Reward|>"])[-1, 0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("rm_head.3.bias"), r'Missing key\(s\) in state_dict: "3.bias"'),
        (lambda state: state.pop("model.embed_tokens.weight"), "model.embed_tokens.weight"),
        (lambda state: state.pop("model.layers.1.mlp.up_proj.weight"), "layers.1.mlp.up_proj.weight"),
        (lambda state: state.update({"rm_head.5.weight": torch.zeros(4, 16)}), "5.weight"),
        (lambda state: state.update({"visual.blocks.7.norm1.bias": torch.zeros(32)}), "visual.blocks.7.norm1.bias"),
        (lambda state: state.update({"model.embed_tokens.weight": torch.zeros(300, 32)}), "300, 32"),
    ],
)
def test_a_file_that_is_no_such_network_is_refused_by_the_weight_that_does_not_fit(
    mirror: Path, change, told: str
) -> None:
    state = load_file(mirror / FILE)
    change(state)
    save_file(state, mirror / FILE)
    with pytest.raises(UserError, match=f"reward hpsv3: .*is no HPSv3 .*{told}") as refusal:
        load_reward("hpsv3", antialias=True)
    assert "\n" not in str(refusal.value)

"""ImageReward: a tiny random checkpoint in the published layout, against BLIP's forward written out in torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drtune.errors import UserError
from drtune.rewards import load_reward
from drtune.rewards.imagereward import ImageReward, Network
from drtune.rewards.preprocessing import TorchvisionCrop
from tests.words import random_images

BLIP, BERT = "THUDM/ImageReward", "google-bert/bert-base-uncased"
WIDTH, HEADS, PATCH, SIDE, DEPTH = 128, 2, 16, 32, 2
TEXT_WIDTH, TEXT_HEADS, TEXT_DEPTH, CONTEXT = 48, 3, 2, 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "red", "circle", "##s", ",", "two"]
VOCABULARY_SIZE = len(WORDS) + 2  # BLIP adds [DEC] and [ENC], which no prompt holds
PROMPTS = ["Two red circles", "a, b, c", "circle " * 50]
MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": TEXT_WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": CONTEXT,
    "model_type": "bert",
    "num_attention_heads": TEXT_HEADS,
    "num_hidden_layers": TEXT_DEPTH,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": VOCABULARY_SIZE,
    "encoder_width": 768,  # not so: the vision tower is wider, and BLIP's code overwrites this
    "add_cross_attention": True,
}


def imagereward_state() -> dict[str, Tensor]:
    """What the published file holds, with fewer, narrower and random layers."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    def linear(prefix: str, rows: int, columns: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": weight(rows, columns), f"{prefix}.bias": weight(rows)}

    def norm(prefix: str, width: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": 1 + weight(width), f"{prefix}.bias": weight(width)}

    vision = "blip.visual_encoder"
    state = {
        f"{vision}.cls_token": weight(1, 1, WIDTH),
        f"{vision}.pos_embed": weight(1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        f"{vision}.patch_embed.proj.weight": weight(WIDTH, 3, PATCH, PATCH) / PATCH,
        f"{vision}.patch_embed.proj.bias": weight(WIDTH),
    }
    for block in (f"{vision}.blocks.{index}" for index in range(DEPTH)):
        state |= norm(f"{block}.norm1", WIDTH) | linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        state |= linear(f"{block}.attn.proj", WIDTH, WIDTH) | norm(f"{block}.norm2", WIDTH)
        state |= linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    state |= norm(f"{vision}.norm", WIDTH)

    text = "blip.text_encoder"
    state |= {
        f"{text}.embeddings.position_ids": torch.arange(CONTEXT)[None],
        f"{text}.embeddings.word_embeddings.weight": weight(VOCABULARY_SIZE, TEXT_WIDTH),
        f"{text}.embeddings.position_embeddings.weight": weight(CONTEXT, TEXT_WIDTH),
        **norm(f"{text}.embeddings.LayerNorm", TEXT_WIDTH),
    }
    for layer in (f"{text}.encoder.layer.{index}" for index in range(TEXT_DEPTH)):
        for attention, seen in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            state |= linear(f"{layer}.{attention}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            state |= linear(f"{layer}.{attention}.self.key", TEXT_WIDTH, seen)
            state |= linear(f"{layer}.{attention}.self.value", TEXT_WIDTH, seen)
            state |= linear(f"{layer}.{attention}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            state |= norm(f"{layer}.{attention}.output.LayerNorm", TEXT_WIDTH)
        state |= linear(f"{layer}.intermediate.dense", 96, TEXT_WIDTH)
        state |= linear(f"{layer}.output.dense", TEXT_WIDTH, 96) | norm(f"{layer}.output.LayerNorm", TEXT_WIDTH)

    state |= linear("blip.vision_proj", 8, WIDTH) | linear("blip.text_proj", 8, TEXT_WIDTH)
    widths = (TEXT_WIDTH, 1024, 128, 64, 16, 1)
    for number, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state |= linear(f"mlp.layers.{number}", after, before)
    return state


STATE = imagereward_state()
EXACT = {name: tensor.double() for name, tensor in STATE.items()}


# BLIP's forward -------------------------------------------------------------------------------------------------------


def linear(x: Tensor, name: str) -> Tensor:
    return F.linear(x, EXACT[f"{name}.weight"], EXACT[f"{name}.bias"])


def layer_norm(x: Tensor, name: str, epsilon: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], EXACT[f"{name}.weight"], EXACT[f"{name}.bias"], epsilon)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1], heads, -1).transpose(1, 2)

    scores = split(q) @ split(k).mT / math.sqrt(q.shape[-1] // heads)
    if mask is not None:
        scores = scores + (1 - mask[:, None, None].double()) * -10000
    return (scores.softmax(-1) @ split(v)).transpose(1, 2).reshape(q.shape)


def see(pixels: Tensor) -> Tensor:
    name = "blip.visual_encoder"
    kernel, bias = EXACT[f"{name}.patch_embed.proj.weight"], EXACT[f"{name}.patch_embed.proj.bias"]
    patches = F.conv2d(pixels, kernel, bias, stride=PATCH).flatten(2).mT
    x = torch.cat([EXACT[f"{name}.cls_token"].expand(len(pixels), -1, -1), patches], 1) + EXACT[f"{name}.pos_embed"]
    for block in (f"{name}.blocks.{index}" for index in range(DEPTH)):
        q, k, v = linear(layer_norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, HEADS), f"{block}.attn.proj")
        hidden = F.gelu(linear(layer_norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return layer_norm(x, f"{name}.norm", 1e-6)


def read(tokens: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
    name = "blip.text_encoder"
    words = EXACT[f"{name}.embeddings.word_embeddings.weight"][tokens]
    positions = EXACT[f"{name}.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = layer_norm(words + positions, f"{name}.embeddings.LayerNorm", 1e-12)
    for layer in (f"{name}.encoder.layer.{index}" for index in range(TEXT_DEPTH)):
        for attention in ("attention", "crossattention"):
            prefix, other = f"{layer}.{attention}", seen if attention == "crossattention" else x
            q, k, v = (
                linear(source, f"{prefix}.self.{part}")
                for source, part in ((x, "query"), (other, "key"), (other, "value"))
            )
            mixed = attend(q, k, v, TEXT_HEADS, mask if attention == "attention" else None)
            x = layer_norm(x + linear(mixed, f"{prefix}.output.dense"), f"{prefix}.output.LayerNorm", 1e-12)
        hidden = F.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = layer_norm(x + linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm", 1e-12)
    return x[:, 0]


def raw_scores(pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    x = read(tokens, mask, see(pixels))
    for number in (0, 2, 4, 6, 7):
        x = linear(x, f"mlp.layers.{number}")
    return x[:, 0]


def tokenize(prompts: list[str]) -> Tensor:
    """The tokens of the prompts above: 35 at most, with marks at both ends, and zeros after that."""
    words = {"two": ["two"], "red": ["red"], "circle": ["circle"], "circles": ["circle", "##s"]}
    rows = torch.zeros(len(prompts), 35, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        pieces = [piece for word in prompt.lower().replace(",", " ,").split() for piece in words.get(word, [word])]
        tokens = [WORDS.index(piece) for piece in ("[CLS]", *pieces[:33], "[SEP]")]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


# ----------------------------------------------------------------------------------------------------------------------


def write_mirror(folder: Path, state: Mapping[str, object] = STATE) -> None:
    (folder / BLIP).mkdir(parents=True)
    (folder / BERT).mkdir(parents=True)
    torch.save(state, folder / BLIP / "ImageReward.pt")
    (folder / BLIP / "med_config.json").write_text(json.dumps(MED_CONFIG), encoding="utf-8")
    (folder / BERT / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mirror(tmp_path)
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    return tmp_path


@pytest.fixture
def reward(mirror: Path) -> ImageReward:
    assert mirror.is_dir()
    return ImageReward.load(antialias=True)


def test_the_network_is_blips() -> None:
    network = Network.of(STATE, MED_CONFIG).double()
    pixels, tokens = random_images(3, 3, SIDE, SIDE).double(), tokenize(PROMPTS)
    mask = (tokens > 0).long()
    expected = raw_scores(pixels, tokens, mask)
    torch.testing.assert_close(network(pixels, tokens, mask), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.01


def test_the_reward_is_the_scaled_score_of_the_cropped_picture(reward: ImageReward) -> None:
    images = random_images(3, 3, 40, 56)
    pixels = TorchvisionCrop(SIDE, True).of_images(images).double()
    tokens = tokenize(PROMPTS)
    expected = (raw_scores(pixels, tokens, tokens > 0) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(reward(images, PROMPTS).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_prompt_and_the_picture_both_count(reward: ImageReward) -> None:
    images = random_images(2, 3, SIDE, SIDE)
    scores = reward(images, PROMPTS[:2])
    assert (scores - reward(images, PROMPTS[1::-1])).abs().min() > 1e-3
    assert (scores - reward(images.flip(0), PROMPTS[:2])).abs().min() > 1e-4


def test_half_precision_stays_close_and_leaves_the_head_exact(reward: ImageReward) -> None:
    images = random_images(3, 3, 40, 40)
    exact = reward(images, PROMPTS)
    half = reward(images.bfloat16(), PROMPTS)
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 0.05
    weight = reward.network.head.layers["0"].weight
    torch.testing.assert_close(weight, STATE["mlp.layers.0.weight"], rtol=0, atol=0)


def test_nothing_of_the_network_trains(reward: ImageReward) -> None:
    assert not reward.network.training
    assert not any(weight.requires_grad for weight in reward.network.parameters())


def test_provenance_tells_weights_and_resizing(mirror: Path) -> None:
    digest = hashlib.sha256((mirror / BLIP / "ImageReward.pt").read_bytes()).hexdigest()
    provenance = load_reward("imagereward", antialias=False).provenance
    assert provenance == f"ImageReward.pt sha256 {digest}, resized by Pillow in 8 bits"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blip.visual_encoder.patch_embed.proj.weight": None}, "'patch_embed.proj.weight'"),
        ({"blip.visual_encoder.blocks.1.attn.qkv.bias": None}, r"encoder\.layers\.1\.self_attn\.qkv\.bias is missing"),
        (
            {"blip.text_encoder.encoder.layer.1.crossattention.self.key.bias": None},
            r"self\.key\.bias is missing",
        ),
        ({"blip.visual_encoder.blocks.0.gate": torch.zeros(1)}, "'blocks.0.gate' is no weight of BLIP's vision tower"),
        ({"blip.text_encoder.pooler.dense.bias": torch.zeros(1)}, r"pooler\.dense\.bias is no weight of it"),
        ({"blip.visual_encoder.norm.weight": torch.zeros(5)}, r"post_layernorm\.weight is \(5,\), not \(128,\)"),
        ({"mlp.layers.7.bias": None}, r'Missing key.* "layers\.7\.bias"'),
        ({"mlp.layers.7.bias": torch.zeros(3)}, r"size mismatch for layers\.7\.bias"),
    ],
)
def test_weights_that_are_missing_unknown_or_misshapen_are_refused_in_one_line(
    change: dict[str, Tensor | None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mirror(tmp_path, {name: tensor for name, tensor in (STATE | change).items() if tensor is not None})
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    with pytest.raises(UserError, match=rf"is no ImageReward checkpoint \(.*{message}") as refusal:
        load_reward("imagereward", antialias=True)
    assert "\n" not in str(refusal.value)

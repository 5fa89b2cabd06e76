"""CLIPScore and the aesthetic predictor: a tiny random CLIP as published, against its forward in plain torch."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from drtune.errors import UserError
from drtune.rewards import Reward, load_reward
from drtune.rewards.openai import Aesthetic, CLIPScore
from drtune.rewards.preprocessing import TorchvisionCrop, TransformersCrop
from tests.words import CONTEXT, PROMPTS, VOCABULARY, colours, random_images, tokenize, write_clip_words

WIDTH, HEADS, JOINT_WIDTH, PATCH, SIDE, LAYERS = 64, 2, 24, 14, 28, 2
CLIP, PREDICTOR = "openai/clip-vit-large-patch14", "camenduru/improved-aesthetic-predictor"
FILE = "sac+logos+ava1-l14-linearMSE.pth"


def head_state() -> dict[str, Tensor]:
    """The predictor's state dict: layers 1, 3 and 5 of its nn.Sequential are dropout."""
    generator = torch.Generator().manual_seed(5)
    widths = (JOINT_WIDTH, 1024, 128, 64, 16, 1)
    state = {}
    for number, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state[f"layers.{number}.weight"] = 2 * torch.randn(after, before, generator=generator) / math.sqrt(before)
        state[f"layers.{number}.bias"] = torch.randn(after, generator=generator)
    return state


def tiny_clip() -> CLIPModel:
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "quick_gelu",
        "initializer_factor": 3.0,
    }
    config = CLIPConfig(
        text_config=tower
        | {
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": CONTEXT,
            "eos_token_id": 2,
            "bos_token_id": 0,
        },
        vision_config=tower | {"patch_size": PATCH, "image_size": SIDE},
        projection_dim=JOINT_WIDTH,
    )
    torch.manual_seed(3)
    model = CLIPModel(config).eval()
    for weight in model.parameters():  # biases and norms, too
        weight.data += 0.05 * torch.randn(weight.shape)
    return model


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    (folder / PREDICTOR).mkdir(parents=True)
    torch.save(head_state(), folder / PREDICTOR / FILE)
    tiny_clip().save_pretrained(folder / CLIP)
    write_clip_words(folder / CLIP)
    return folder


@pytest.fixture
def mirrored(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRTUNE_REWARDS", str(mirror))
    return mirror


@pytest.fixture
def exact(mirrored: Path) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in load_file(mirrored / CLIP / "model.safetensors").items()}


@pytest.fixture(params=["clipscore", "aesthetic"])
def reward(mirrored: Path, request: pytest.FixtureRequest) -> Reward:
    assert mirrored.is_dir()
    return load_reward(request.param, antialias=True)


# OpenAI's forward -----------------------------------------------------------------------------------------------------


def layer_norm(weights: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def transformer(weights: dict[str, Tensor], x: Tensor, tower: str, mask: Tensor) -> Tensor:
    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def split(x: Tensor) -> Tensor:
        return x.view(len(x), -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    for layer in (f"{tower}.encoder.layers.{index}" for index in range(LAYERS)):
        seen = layer_norm(weights, x, f"{layer}.layer_norm1")
        q, k, v = (split(linear(seen, f"{layer}.self_attn.{name}_proj")) for name in "qkv")
        attention = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask).softmax(-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(x.shape), f"{layer}.self_attn.out_proj")
        hidden = linear(layer_norm(weights, x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{layer}.mlp.fc2")  # quick GELU
    return x


def embed_images(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values).double()[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    pixels = (images.double() - mean) / deviation
    embeddings = "vision_model.embeddings"
    patches = F.conv2d(pixels, weights[f"{embeddings}.patch_embedding.weight"], stride=PATCH).flatten(2).mT
    start = weights[f"{embeddings}.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([start, patches], 1) + weights[f"{embeddings}.position_embedding.weight"]
    x = layer_norm(weights, x, "vision_model.pre_layrnorm")
    x = transformer(weights, x, "vision_model", torch.zeros(x.shape[1], x.shape[1]))
    embedding = layer_norm(weights, x[:, 0], "vision_model.post_layernorm") @ weights["visual_projection.weight"].T
    return embedding / embedding.norm(dim=-1, keepdim=True)


def embed_text(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    embeddings = "text_model.embeddings"
    x = weights[f"{embeddings}.token_embedding.weight"][tokens] + weights[f"{embeddings}.position_embedding.weight"]
    causal = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    x = layer_norm(weights, transformer(weights, x, "text_model", causal), "text_model.final_layer_norm")
    embedding = x[torch.arange(len(x)), tokens.argmax(-1)] @ weights["text_projection.weight"].T
    return embedding / embedding.norm(dim=-1, keepdim=True)


# ----------------------------------------------------------------------------------------------------------------------


def test_clipscore_is_a_hundred_times_the_cosine(exact: dict[str, Tensor]) -> None:
    images = random_images(3, 3, 40, 56)
    image = embed_images(exact, colours(TransformersCrop(SIDE, True).of_images(images)))
    expected = 100 * (image * embed_text(exact, tokenize(PROMPTS))).sum(-1)
    scores = CLIPScore.load(antialias=True)(images, PROMPTS)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-4)
    assert expected.std() > 1


def test_aesthetic_is_five_linear_layers_on_the_unit_embedding(exact: dict[str, Tensor]) -> None:
    images = random_images(3, 3, 40, 56)
    x = embed_images(exact, colours(TorchvisionCrop(SIDE, True).of_images(images)))
    head = {name: tensor.double() for name, tensor in head_state().items()}
    for number in (0, 2, 4, 6, 7):
        x = x @ head[f"layers.{number}.weight"].T + head[f"layers.{number}.bias"]
    scores = Aesthetic.load(antialias=True)(images, PROMPTS)
    torch.testing.assert_close(scores.double(), x[:, 0], rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.1


def test_half_precision_stays_close_and_leaves_the_head_exact(reward: Reward) -> None:
    images = random_images(3, 3, 40, 40)
    exact = reward(images, PROMPTS)
    half = reward(images.bfloat16(), PROMPTS)
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()
    if isinstance(reward, Aesthetic):
        torch.testing.assert_close(reward.head.layers["0"].weight, head_state()["layers.0.weight"], rtol=0, atol=0)


def test_nothing_of_the_networks_trains(reward: Reward) -> None:
    assert isinstance(reward, CLIPScore | Aesthetic)
    networks = (
        [reward.towers.model] if isinstance(reward, CLIPScore) else [reward.vision, reward.projection, reward.head]
    )
    for network in networks:
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_provenance_tells_every_file_and_the_resizing(mirrored: Path) -> None:
    tower, head = (
        hashlib.sha256((mirrored / file).read_bytes()).hexdigest()
        for file in (f"{CLIP}/model.safetensors", f"{PREDICTOR}/{FILE}")
    )
    clip = f"{CLIP} model.safetensors sha256 {tower}"
    assert load_reward("clipscore", antialias=False).provenance == f"{clip}, resized by Pillow in 8 bits"
    assert load_reward("aesthetic", antialias=True).provenance == (
        f"{FILE} sha256 {head} on {clip}, resized by Pillow in 8 bits"
    )


OF_ANOTHER_WIDTH = head_state() | {"layers.0.weight": torch.zeros(1024, 4)}


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (OF_ANOTHER_WIDTH, rf"size mismatch for layers\.0\.weight: .*1024, 4.*1024, {JOINT_WIDTH}"),
        ({}, r"Missing key.*layers\.0\.weight"),
        ([1], ""),
        (head_state() | {"x": torch.zeros(1)}, 'Unexpected key.*"x"'),
    ],
)
def test_a_checkpoint_that_is_no_predictor_is_refused_in_one_line(content: object, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "mine.pth")
    wanted = rf"^reward aesthetic: .*mine\.pth is no aesthetic predictor's checkpoint \(.*{told}"
    with pytest.raises(UserError, match=wanted) as refusal:
        load_reward("aesthetic", antialias=True, checkpoint=tmp_path / "mine.pth")
    assert "\n" not in str(refusal.value)

"""HPS and PickScore: tiny random checkpoints in the public layout, against OpenCLIP's forward written out in torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from drtune.errors import UserError
from drtune.rewards import Reward, load_reward
from drtune.rewards.openclip import to_clip_model
from drtune.rewards.preference import HumanPreferenceScore, PickScore, mended
from drtune.rewards.preprocessing import TransformersCrop, letterboxed
from tests.words import (
    CONTEXT,
    PROMPTS,
    VOCABULARY,
    colours,
    random_images,
    tokenize,
    write_clip_words,
)

VISION_HEADS = TEXT_HEADS = 2
VISION_WIDTH, TEXT_WIDTH, JOINT_WIDTH, PATCH, SIDE, LAYERS = 160, 128, 48, 14, 28, 2


def openclip_state() -> dict[str, Tensor]:
    """What `open_clip.create_model("ViT-H-14").state_dict()` holds, with fewer, narrower and random layers."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return 0.5 * torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    def norm(prefix: str, width: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": 1 + weight(width), f"{prefix}.bias": weight(width)}

    def linear(prefix: str, rows: int, columns: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": weight(rows, columns), f"{prefix}.bias": weight(rows)}

    def blocks(prefix: str, width: int) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for block in (f"{prefix}resblocks.{index}" for index in range(LAYERS)):
            state |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
            state[f"{block}.attn.in_proj_weight"] = 3 * weight(3 * width, width)
            state[f"{block}.attn.in_proj_bias"] = weight(3 * width)
            state |= linear(f"{block}.attn.out_proj", width, width)
            state |= linear(f"{block}.mlp.c_fc", 4 * width, width) | linear(f"{block}.mlp.c_proj", width, 4 * width)
        return state

    return {
        "positional_embedding": weight(CONTEXT, TEXT_WIDTH),
        "text_projection": weight(TEXT_WIDTH, JOINT_WIDTH),
        "logit_scale": torch.tensor(3.0),
        "visual.class_embedding": weight(VISION_WIDTH),
        "visual.positional_embedding": weight((SIDE // PATCH) ** 2 + 1, VISION_WIDTH),
        "visual.proj": weight(VISION_WIDTH, JOINT_WIDTH),
        "visual.conv1.weight": weight(VISION_WIDTH, 3, PATCH, PATCH) / PATCH,
        **norm("visual.ln_pre", VISION_WIDTH),
        **blocks("visual.transformer.", VISION_WIDTH),
        **norm("visual.ln_post", VISION_WIDTH),
        **blocks("transformer.", TEXT_WIDTH),
        "token_embedding.weight": 3 * weight(len(VOCABULARY), TEXT_WIDTH),
        **norm("ln_final", TEXT_WIDTH),
    }


STATE = {name: tensor.half() for name, tensor in openclip_state().items()}  # as the published file has it
EXACT = {name: tensor.double() for name, tensor in STATE.items()}


# OpenCLIP's forward ---------------------------------------------------------------------------------------------------


def layer_norm(x: Tensor, prefix: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], EXACT[f"{prefix}.weight"], EXACT[f"{prefix}.bias"])


def linear(x: Tensor, prefix: str) -> Tensor:
    return F.linear(x, EXACT[f"{prefix}.weight"], EXACT[f"{prefix}.bias"])


def transformer(x_BND: Tensor, prefix: str, heads: int, mask_NN: Tensor) -> Tensor:
    batch, length, width = x_BND.shape
    for block in (f"{prefix}resblocks.{index}" for index in range(LAYERS)):
        seen = layer_norm(x_BND, f"{block}.ln_1")
        qkv = seen @ EXACT[f"{block}.attn.in_proj_weight"].T + EXACT[f"{block}.attn.in_proj_bias"]
        q, k, v = qkv.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) / math.sqrt(width // heads) + mask_NN).softmax(-1)
        mixed = (attention @ v).transpose(1, 2).reshape(batch, length, width)
        x_BND = x_BND + linear(mixed, f"{block}.attn.out_proj")
        hidden = linear(layer_norm(x_BND, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x_BND = x_BND + linear(F.gelu(hidden), f"{block}.mlp.c_proj")
    return x_BND


def encode_image(pixels: Tensor) -> Tensor:
    patches = F.conv2d(pixels, EXACT["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    start = EXACT["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = layer_norm(torch.cat([start, patches], 1) + EXACT["visual.positional_embedding"], "visual.ln_pre")
    x = transformer(x, "visual.transformer.", VISION_HEADS, torch.zeros(x.shape[1], x.shape[1]))
    return layer_norm(x[:, 0], "visual.ln_post") @ EXACT["visual.proj"]


def encode_text(tokens: Tensor) -> Tensor:
    x = EXACT["token_embedding.weight"][tokens] + EXACT["positional_embedding"]
    causal = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    x = layer_norm(transformer(x, "transformer.", TEXT_HEADS, causal), "ln_final")
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ EXACT["text_projection"]


def cosines(pixels: Tensor, prompts: list[str]) -> Tensor:
    mean, deviation = (torch.tensor(values).double()[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    image, text = encode_image((pixels.double() - mean) / deviation), encode_text(tokenize(prompts))
    return F.cosine_similarity(image, text)


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the hub's repositories, with a tiny network in them."""
    folder = tmp_path_factory.mktemp("mirror")
    hps, pickscore, tower = (
        folder / name for name in ("xswu/HPSv2", "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    )
    for repository in (hps, pickscore, tower):
        repository.mkdir(parents=True)
    torch.save({"state_dict": STATE}, hps / "HPS_v2.1_compressed.pt")
    torch.save({"state_dict": {name: tensor + 0.01 for name, tensor in STATE.items()}}, hps / "HPS_v2_compressed.pt")
    to_clip_model(STATE).save_pretrained(pickscore)
    write_clip_words(tower)
    return folder


@pytest.fixture
def mirrored(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRTUNE_REWARDS", str(mirror))
    return mirror


@pytest.fixture(params=["hps", "pickscore"])
def reward(mirrored: Path, request: pytest.FixtureRequest) -> Reward:
    assert mirrored.is_dir()
    return load_reward(request.param, antialias=True)


def test_both_towers_are_openclips() -> None:
    model = to_clip_model(STATE).double().eval()
    pixels, tokens = random_images(3, 3, SIDE, SIDE).double(), tokenize(PROMPTS)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=tokens).pooler_output
    torch.testing.assert_close(image, encode_image(pixels), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(text, encode_text(tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": None}, "'visual.proj' is missing"),
        (
            {"transformer.resblocks.1.attn.in_proj_bias": None},
            r"self_attn\.k_proj\.bias is missing, and 2 more",
        ),
        ({"visual.attn_pool.query": torch.zeros(1)}, "'visual.attn_pool.query' is no weight of an OpenCLIP"),
        ({"transformer.resblocks.0.ls_1.gamma": torch.zeros(1)}, "'transformer.resblocks.0.ls_1.gamma' is no weight"),
        ({"ln_final.weight": torch.zeros(5)}, r"final_layer_norm\.weight is \(5,\), not \(128,\)"),
    ],
)
def test_weights_that_are_missing_unknown_or_misshapen_are_named(
    change: dict[str, Tensor | None], message: str
) -> None:
    state = {name: tensor for name, tensor in (STATE | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        to_clip_model(state)


@pytest.mark.usefixtures("mirrored")
def test_hps_is_the_cosine_of_the_letterboxed_picture() -> None:
    images = random_images(3, 3, 40, 56)
    expected = cosines(letterboxed(images, SIDE, antialias=True), PROMPTS)
    scores = HumanPreferenceScore.load(antialias=True)(images, PROMPTS)
    assert scores.shape == (3,)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.usefixtures("mirrored")
def test_hps_of_either_version_is_the_same_code_on_other_weights() -> None:
    images = random_images(2, 3, 30, 30)
    hps, hps_v2 = (load_reward(name, antialias=True) for name in ("hps", "hps_v2"))
    assert (hps(images, PROMPTS[:2]) - hps_v2(images, PROMPTS[:2])).abs().min() > 1e-4
    assert hps_v2.name == "hps_v2"
    assert hps_v2.provenance.startswith("HPS_v2_compressed.pt md5 ")


@pytest.mark.usefixtures("mirrored")
def test_pickscore_is_the_scaled_cosine_of_the_cropped_picture() -> None:
    images = random_images(3, 3, 40, 56)
    expected = math.exp(3) * cosines(colours(TransformersCrop(SIDE, True).of_images(images)), PROMPTS)
    torch.testing.assert_close(PickScore.load(antialias=True)(images, PROMPTS).double(), expected, rtol=0, atol=1e-5)


def test_a_prompt_is_encoded_once_by_itself_and_without_a_graph(reward: Reward) -> None:
    """Others beside it could change its last bits, and which are new hangs on what was scored before."""
    assert isinstance(reward, HumanPreferenceScore | PickScore)
    encoded: list[int] = []
    reward.towers.model.text_model.encoder.register_forward_hook(
        lambda *arguments: encoded.append(len(arguments[2].last_hidden_state))
    )
    images = random_images(2, 3, SIDE, SIDE).requires_grad_()
    reward(images, [PROMPTS[0], PROMPTS[0]]).sum().backward()
    read = [mended(prompt) if reward.name == "hps" else prompt for prompt in PROMPTS]
    first = reward.towers.embedded[read[0]]
    reward(random_images(3, 3, SIDE, SIDE), PROMPTS)
    assert encoded == [1, 1, 1]
    assert list(reward.towers.embedded) == read
    assert reward.towers.embedded[read[0]] is first
    assert first.grad_fn is None
    assert not any(weight.requires_grad for weight in reward.towers.model.parameters())


def test_the_oldest_prompts_are_forgotten(reward: Reward) -> None:
    assert isinstance(reward, HumanPreferenceScore | PickScore)
    reward.towers.max_embedded = 2
    scores = reward(random_images(3, 3, SIDE, SIDE), PROMPTS)
    assert list(reward.towers.embedded) == PROMPTS[1:]
    torch.testing.assert_close(reward(random_images(3, 3, SIDE, SIDE), PROMPTS), scores)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("it\u2019s \u201ca kite\u201d \u2013 high", 'it\'s "a kite" \u2013 high'),
        ("R&amp;B singer, full-width\uff0ccomma", "r&b singer, full-width,comma"),
        ("a &amp;amp; b", "a & b"),
        ("cafÃ©\u00a0 ﬁne…  ", "café fine…"),
    ],
)
def test_hps_mends_the_prompt_before_it_reads_it_and_pickscore_does_not(prompt: str, read: str, mirrored: Path) -> None:
    assert mirrored.is_dir()
    assert mended(prompt) == read
    images = random_images(1, 3, SIDE, SIDE)
    hps, pickscore = HumanPreferenceScore.load(antialias=True), PickScore.load(antialias=True)
    assert hps(images, [prompt]).item() == hps(images, [read]).item()
    assert abs(pickscore(images, [prompt]).item() - pickscore(images, [read]).item()) > 1e-4


def test_a_prompt_beyond_the_context_is_cut(reward: Reward) -> None:
    images = random_images(1, 3, SIDE, SIDE)
    assert reward(images, ["a" * 200]).item() == pytest.approx(reward(images, ["a" * 300]).item())


def test_half_precision_stays_close(reward: Reward) -> None:
    images = random_images(3, 3, 40, 40).requires_grad_()
    exact = reward(images, PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = reward(images, PROMPTS)
    (gradient,) = torch.autograd.grad(under_autocast.sum(), images)
    outright = reward(images.detach().bfloat16(), PROMPTS)
    scale = math.exp(3) if reward.name == "pickscore" else 1
    for scores in (under_autocast, outright):
        assert scores.dtype == torch.float32
        assert (scores - exact).abs().max() < 0.02 * scale
    assert gradient.isfinite().all()


def test_provenance_tells_weights_and_resizing(mirrored: Path) -> None:
    hps = (mirrored / "xswu/HPSv2/HPS_v2.1_compressed.pt").read_bytes()
    pickscore = (mirrored / "yuvalkirstain/PickScore_v1/model.safetensors").read_bytes()
    assert load_reward("hps", antialias=False).provenance == (
        f"HPS_v2.1_compressed.pt md5 {hashlib.md5(hps).hexdigest()}, resized without antialias"
    )
    assert load_reward("pickscore", antialias=True).provenance == (
        f"model.safetensors sha256 {hashlib.sha256(pickscore).hexdigest()}, resized by Pillow in 8 bits"
    )


def test_heads_of_another_width_are_refused_until_the_checkpoints_config_tells_them(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads 40 wide in 160 are other heads than two of 80, with weights of the same shapes."""
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    shutil.copytree(mirror, tmp_path, dirs_exist_ok=True)
    narrow = STATE | {name: tensor[..., :64] for name, tensor in STATE.items() if "visual.class" in name}
    narrow |= {"visual.conv1.weight": STATE["visual.conv1.weight"][:64]}
    torch.save({"state_dict": narrow}, tmp_path / "xswu/HPSv2/HPS_v2_compressed.pt")
    with pytest.raises(UserError, match="attention 64 wide cannot have heads 80 wide, which its weights do not tell"):
        load_reward("hps_v2", antialias=True)
    images = random_images(3, 3, 40, 56)
    before = load_reward("hps", antialias=True)(images, PROMPTS)
    (tmp_path / "xswu/HPSv2/open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is no OpenCLIP checkpoint \('model_cfg'\)"):
        load_reward("hps", antialias=True)
    about = {"vision_cfg": {"width": 160, "head_width": 40}, "text_cfg": {"width": 128, "heads": 2}}
    (tmp_path / "xswu/HPSv2/open_clip_config.json").write_text(json.dumps({"model_cfg": about}))
    told = load_reward("hps", antialias=True)
    assert isinstance(told, HumanPreferenceScore)
    assert told.towers.model.config.vision_config.num_attention_heads == 4
    assert (told(images, PROMPTS) - before).abs().max() > 1e-4


class Trap:
    """Pickled, it is a call that makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    "content", [{"state_dict": {"visual.proj": torch.zeros(2, 2)}}, {}, [1], {"state_dict": Trap()}]
)
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "xswu/HPSv2/HPS_v2.1_compressed.pt"
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    with pytest.raises(
        UserError, match=r"^reward hps: .*HPS_v2\.1_compressed\.pt is no OpenCLIP checkpoint \("
    ) as refusal:
        load_reward("hps", antialias=True)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "sprung").exists()


def test_a_pickscore_that_lacks_a_weight_or_is_damaged_is_refused(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    shutil.copytree(mirror, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "yuvalkirstain/PickScore_v1/model.safetensors"
    weights = load_file(file)
    del weights["visual_projection.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        UserError, match=r"model\.safetensors cannot be loaded \(visual_projection\.weight is missing\)"
    ):
        load_reward("pickscore", antialias=True)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"PickScore_v1/model\.safetensors cannot be loaded \("):
        load_reward("pickscore", antialias=True)

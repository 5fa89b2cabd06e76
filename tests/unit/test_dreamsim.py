"""DreamSim as a space of features: its published layout at tiny size, held against the original's network in torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from drtune.config import load_config
from drtune.errors import UserError
from drtune.evaluation.dreamsim import BASE, DreamSim
from drtune.evaluation.features import Spaces
from drtune.evaluation.measures import Gauges
from drtune.files.images import to_pil, to_tensor
from drtune.models.miniature.cores import is_small
from drtune.rewards.weights import MIRROR
from tests.words import random_images

WIDTH, DEPTH, HEADS, PATCH, GRID = 32, 2, 2, 14, 9
CPU = torch.device("cpu")


class Attention(nn.Module):
    """Queries, keys and values in one layer, which the adapter is for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x_BND: Tensor) -> Tensor:
        parts = self.qkv(x_BND).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (parts[0] @ parts[1].mT / math.sqrt(WIDTH / HEADS)).softmax(-1)
        mixed: Tensor = self.proj((weights @ parts[2]).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A layer of DINOv2."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn, self.ls1, self.ls2 = Attention(), nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.ls1 * self.attn(self.norm1(x_BND))
        return x_BND + self.ls2 * self.mlp(self.norm2(x_BND))


class Extractor(nn.Module):
    """DINOv2 under the names of its repository, up to the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.model.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.model.pos_embed = nn.Parameter(torch.zeros(1, GRID**2 + 1, WIDTH))
        self.model.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        patches = self.model.proj(pixels_BCHW).flatten(2).mT
        table = self.model.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        scale = float(224 // PATCH + 0.1) / GRID
        table = F.interpolate(table, scale_factor=(scale, scale), mode="bicubic", antialias=False)
        table = torch.cat([self.model.pos_embed[:, :1], table.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], dim=1)
        x_BND = torch.cat([self.model.cls_token.expand(len(patches), -1, -1), patches], dim=1) + table
        for block in self.model.blocks:
            x_BND = block(x_BND)
        return x_BND[:, 0]


class Original(nn.Module):
    """DreamSim's distance of two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.extractor_list = nn.ModuleList([Extractor()])

    def forward(self, one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        one, other = (self.extractor_list[0](pixels) for pixels in (one_BCHW, other_BCHW))
        return 1 - F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=-1)


def in_transformers(extractor: Extractor) -> Dinov2Model:
    """The same network as it stands on the hub."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": PATCH}
    model, own = Dinov2Model(Dinov2Config(**sizes, image_size=GRID * PATCH)), extractor.model
    pairs: list[tuple[Tensor, Tensor]] = [
        (model.embeddings.cls_token, own.cls_token),
        (model.embeddings.position_embeddings, own.pos_embed),
        *zip(model.embeddings.patch_embeddings.projection.parameters(), own.proj.parameters(), strict=True),
    ]
    for layer, block in zip(model.encoder.layer, own.blocks, strict=True):
        pairs += [(layer.layer_scale1.lambda1, block.ls1), (layer.layer_scale2.lambda1, block.ls2)]
        attention = layer.attention
        for kind in ("weight", "bias"):
            thirds = getattr(block.attn.qkv, kind).chunk(3)
            pairs += [
                (getattr(part, kind), third)
                for part, third in zip((attention.q_proj, attention.k_proj, attention.v_proj), thirds, strict=True)
            ]
        for module, its in (
            (attention.o_proj, block.attn.proj),
            (layer.norm1, block.norm1),
            (layer.norm2, block.norm2),
            (layer.mlp.fc1, block.mlp[0]),
            (layer.mlp.fc2, block.mlp[2]),
        ):
            pairs += zip(module.parameters(), its.parameters(), strict=True)
    with torch.no_grad():
        for weight, value in pairs:
            weight.copy_(value)
    return model


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """DreamSim with random weights; its base is in a mirror of the hub, its adapter, as peft saves it, in `adapter`."""
    torch.manual_seed(0)
    bare = Original()
    with torch.no_grad():
        for weight in bare.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    in_transformers(bare.extractor_list[0]).save_pretrained(tmp_path / BASE)
    monkeypatch.setenv(MIRROR, str(tmp_path))
    tuned = get_peft_model(bare, LoraConfig(r=4, lora_alpha=8, target_modules=["qkv"], lora_dropout=0.2)).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    return tuned


def distances(space: DreamSim, pictures: list[Image.Image]) -> Tensor:
    unit_BD = space.embed(pictures, CPU)
    return 1 - (unit_BD[1:] * unit_BD[:1]).sum(-1)


@pytest.mark.parametrize("pickled", [False, True])
def test_one_less_the_cosine_is_the_originals_distance(original: nn.Module, tmp_path: Path, pickled: bool) -> None:
    pictures = [one.resize((260, 150)) for one in to_pil(random_images(3, 3, 2, 3))]
    mean, deviation = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    squeezed = to_tensor([one.resize((224, 224), Image.Resampling.BICUBIC) for one in pictures])
    pixels = (squeezed - mean) / deviation
    adapter = tmp_path / "adapter"
    if pickled:
        original.save_pretrained(adapter, safe_serialization=False)
        (adapter / "adapter_model.safetensors").unlink()
    with torch.no_grad():
        wanted = original(pixels[:1].expand(2, -1, -1, -1), pixels[1:])
        with original.disable_adapter():
            unadapted = original(pixels[:1].expand(2, -1, -1, -1), pixels[1:])
    space = DreamSim.load(adapter)
    torch.testing.assert_close(distances(space, pictures), wanted, atol=1e-6, rtol=1e-4)
    assert (wanted - unadapted).abs().min() > 5e-3
    name = "adapter_model.bin" if pickled else "adapter_model.safetensors"
    assert space.provenance.startswith(f"{name} sha256 ")
    assert " on facebook/dinov2-base model.safetensors sha256 " in space.provenance


@pytest.mark.usefixtures("original")
def test_it_is_the_space_of_diversity_and_drift_where_it_is_asked_for(tmp_path: Path) -> None:
    asked = ["base_model=some/base", "evaluation.rewards=[brightness]", "evaluation.features=dreamsim"]
    config = load_config(None, [*asked, f"reward_checkpoints.dreamsim={tmp_path / 'adapter'}"])
    gauges = Gauges(config, tmp_path)
    told = {one.name: one.provenance for one in gauges.measures}
    assert told["drift"].startswith("1 - cosine of image embeddings of dreamsim; adapter_model.safetensors sha256 ")
    assert [note.split(":")[0] for note in gauges.notes] == ["no CMMD"]  # which is measured in a CLIP
    images = random_images(1, 3, 32, 32)
    [row] = gauges.read(to_pil(images), images, ["a cat"], ["0.png"])
    assert math.hypot(*row["features"]) == pytest.approx(1, abs=1e-5)
    assert not is_small("miniature", ["dreamsim"])
    with pytest.raises(UserError, match=r"evaluation\.features=dreamsim needs reward_checkpoints\.dreamsim"):
        load_config(None, asked)


@pytest.mark.usefixtures("original")
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda folder: (folder / "adapter_config.json").unlink(),
            r"dreamsim=.*: has no adapter_config",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "give the folder dinov2_vitb14_single_lora"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no"), "is no DreamSim on DINOv2"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            r"is no DreamSim .*'lora_alpha'",
        ),
        (lambda folder: resaved(folder, "lora_B", 9), r"block 0 takes \(32, 32\), not \(3, 32\)"),
        (lambda folder: resaved(folder, "blocks.1", None), r"'base_model\..*blocks\.1\.attn\.qkv\.lora_A\.weight'"),
        (lambda folder: torch.save(print, unpickled(folder)), "is damaged, or holds more than tensors"),
    ],
)
def test_a_folder_that_is_no_such_adapter_is_refused_in_one_line(tmp_path: Path, damage, told: str) -> None:
    damage(tmp_path / "adapter")
    config = ["base_model=some/base", "evaluation.features=dreamsim"]
    with pytest.raises(UserError, match=told) as refusal:
        Spaces(load_config(None, [*config, f"reward_checkpoints.dreamsim={tmp_path / 'adapter'}"]), [])
    assert "\n" not in str(refusal.value)


def resaved(folder: Path, part: str, rows: int | None) -> None:
    """The weights with that part of their names cut to so many rows, or without them."""
    file = folder / "adapter_model.safetensors"
    kept = {name: weight[:rows].clone() if part in name else weight for name, weight in load_file(file).items()}
    save_file({name: weight for name, weight in kept.items() if rows or part not in name}, file)


def unpickled(folder: Path) -> Path:
    """Where a pickle stands when there is nothing better."""
    (folder / "adapter_model.safetensors").unlink()
    return folder / "adapter_model.bin"


@pytest.mark.usefixtures("original")
def test_the_adapters_strength_is_read_from_its_configuration(tmp_path: Path) -> None:
    pictures = to_pil(random_images(2, 3, 64, 64))
    before = distances(DreamSim.load(tmp_path / "adapter"), pictures)
    about = tmp_path / "adapter" / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"lora_alpha": 0}))
    assert (distances(DreamSim.load(tmp_path / "adapter"), pictures) - before).abs().max() > 1e-3

"""An adapter means one update of each layer, by whatever rule a program reads its file: alpha is the rank in it."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from drtune.config import LoraSection, load_config
from drtune.contracts import ADAPTER, CONFIG
from drtune.files.local import sha256_file
from drtune.models.adapter import add_adapter, save_adapter
from drtune.models.export import export
from drtune.models.kohya import DOUBLE_BLOCK, SINGLE_BLOCK, stable_diffusion
from drtune.models.loading import load_base
from tests.pipelines import FolderOf, pictures, plain_pipeline
from tests.tuned import make_tuned, write_manifest

RANK, ALPHA = 4, 10.0
SETTINGS = (f"lora.rank={RANK}", f"lora.alpha={ALPHA}")
KINDS = ("sd15", "sd21", "sdxl", "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21")
WITHOUT_KOHYA = ("sd3", "z_image", "flux2_klein", "qwen_image", "qwen_image_21")
"""Those of which diffusers reads no such format."""


def header_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, by the format's own rule: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, str] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def product(up: Tensor, down: Tensor) -> Tensor:
    """Of an outer and an inner matrix; both are kernels where the layer is a convolution."""
    return up.flatten(1).double() @ down.flatten(1).double()


def updates(kind: str, folder_of: FolderOf, folder: Path) -> dict[str, Tensor]:
    """What a random adapter, which is saved to `folder`, adds to each layer while it is trained."""
    base = load_base(str(folder_of(kind)))
    weights = add_adapter(base, LoraSection(rank=RANK, alpha=ALPHA), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights.values():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    save_adapter(base, folder)
    layers = {name.removesuffix(".lora_A.default.weight") for name in weights if ".lora_A." in name}
    return {
        layer: ALPHA
        / RANK
        * product(weights[f"{layer}.lora_B.default.weight"], weights[f"{layer}.lora_A.default.weight"])
        for layer in layers
    }


def by_no_rule(path: Path) -> dict[str, Tensor]:
    """W += up @ down, as readers do that find no alpha beside a layer and do not look into the metadata.

    So ComfyUI, comfy/weight_adapter/lora.py: `alpha = v[2] / mat2.shape[0]` if there is one, else `alpha = 1.0`.
    """
    tensors = load_file(path)
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        layer.partition(".")[2]: product(tensors[f"{layer}.lora_B.weight"], tensors[f"{layer}.lora_A.weight"])
        for layer in layers
    }


def by_metadata(path: Path) -> dict[str, Tensor]:
    """W += alpha / r * up @ down with both numbers from the metadata, as peft and diffusers do."""
    settings = json.loads(header_of(path)["lora_adapter_metadata"])
    (network,) = {key.partition(".")[0] for key in settings}
    scale = settings[f"{network}.lora_alpha"] / settings[f"{network}.r"]
    return {layer: scale * update for layer, update in by_no_rule(path).items()}


def by_alpha(path: Path) -> dict[str, Tensor]:
    """W += alpha / rank * up @ down with the alpha beside each layer, as sd-scripts does (networks/lora.py)."""
    tensors = load_file(path)
    found = {}
    for name in tensors:
        if name.endswith(".lora_down.weight"):
            layer = name.removesuffix(".lora_down.weight")
            down = tensors[name]
            found[layer] = tensors[f"{layer}.alpha"] / len(down) * product(tensors[f"{layer}.lora_up.weight"], down)
    return found


def by_kohyas_names(updates: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The same updates as kohya calls the layers: those of FLUX.1 that its authors have in one lie end to end."""
    if kind != "flux_dev":
        return {f"lora_unet_{layer.replace('.', '_')}": update for layer, update in updates.items()}
    return {
        f"lora_unet_{ours}_0_{name}": torch.cat([updates[f"{theirs}.0.{part}"] for part in parts])
        for ours, theirs, layers in (
            ("double_blocks", "transformer_blocks", DOUBLE_BLOCK),
            ("single_blocks", "single_transformer_blocks", SINGLE_BLOCK),
        )
        for name, parts in layers.items()
        if f"{theirs}.0.{parts[0]}" in updates
    }


def pictures_of(folder: Path, adapter: Path | None = None) -> Tensor:
    """Of plain diffusers."""
    pipeline = plain_pipeline(folder)
    if adapter is not None:
        pipeline.load_lora_weights(adapter)
    return pictures(pipeline)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for layer, update in wanted.items():
        assert torch.allclose(found[layer], update, rtol=1e-5, atol=1e-5), layer


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_reads_the_same_updates(kind: str, folder_of: FolderOf, tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path / "tuned", str(folder_of(kind)), *SETTINGS)
    wanted = updates(kind, folder_of, tuned / Path(ADAPTER).parent)
    write_manifest(tuned, load_config(tuned / CONFIG))
    assert_equal(by_no_rule(tuned / ADAPTER), wanted)
    assert_equal(by_metadata(tuned / ADAPTER), wanted)

    export(tuned, "diffusers", tmp_path / "diffusers.safetensors")
    assert (tmp_path / "diffusers.safetensors").read_bytes() == (tuned / ADAPTER).read_bytes()
    if kind not in WITHOUT_KOHYA:
        export(tuned, "kohya", tmp_path / "kohya.safetensors")
        assert_equal(by_alpha(tmp_path / "kohya.safetensors"), by_kohyas_names(wanted, kind))


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_without_its_metadata_diffusers_draws_the_same_pictures(kind: str, folder_of: FolderOf, tmp_path: Path) -> None:
    adapter = make_tuned(tmp_path / "tuned", str(folder_of(kind)), *SETTINGS) / ADAPTER
    save_file(load_file(adapter), tmp_path / "bare.safetensors")
    with_metadata, bare = (pictures_of(folder_of(kind), path) for path in (adapter, tmp_path / "bare.safetensors"))
    assert (with_metadata - bare).abs().max() == 0
    assert (with_metadata - pictures_of(folder_of(kind))).abs().max() > 0.02


def test_an_adapter_with_its_scale_in_the_metadata_alone_is_exported_with_it_in_the_weights(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    """As they were saved before."""
    tuned = make_tuned(tmp_path / "tuned", str(folder_of("sdxl")), *SETTINGS)
    wanted = updates("sdxl", folder_of, tuned / Path(ADAPTER).parent)
    tensors, settings = load_file(tuned / ADAPTER), json.loads(header_of(tuned / ADAPTER)["lora_adapter_metadata"])
    before = {name: tensor * RANK / ALPHA if ".lora_B." in name else tensor for name, tensor in tensors.items()}
    about = {"lora_adapter_metadata": json.dumps(settings | {"unet.lora_alpha": ALPHA})}
    save_file(before, tuned / ADAPTER, about)
    write_manifest(tuned, load_config(tuned / CONFIG))
    assert_equal(by_metadata(tuned / ADAPTER), wanted)
    for form, rules in (("diffusers", (by_no_rule, by_metadata)), ("kohya", (by_alpha,))):
        path = tmp_path / f"{form}.safetensors"
        export(tuned, form, path)
        for rule in rules:
            assert_equal(rule(path), wanted if form == "diffusers" else by_kohyas_names(wanted, "sdxl"))


@pytest.mark.parametrize(
    ("kind", "version", "architecture", "resolution", "prediction"),
    [
        ("sd15", "sd_v1", "stable-diffusion-v1/lora", "16x16", "epsilon"),
        ("sd21", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "16x16", "v"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "16x16", "epsilon"),
        ("flux_dev", "flux1", "flux-1-dev/lora", "1024x1024", None),
        ("flux_schnell", "flux1", "flux-1-schnell/lora", "1024x1024", None),
    ],
)
def test_a_kohya_file_says_what_it_is(
    kind: str,
    version: str,
    architecture: str,
    resolution: str,
    prediction: str | None,
    folder_of: FolderOf,
    tmp_path: Path,
) -> None:
    """The keys that https://github.com/Stability-AI/ModelSpec asks for, and those of sd-scripts."""
    tuned = make_tuned(tmp_path / "tuned", str(folder_of(kind)), *SETTINGS)
    path = tmp_path / "my-lora.safetensors"
    export(tuned, "kohya", path)
    about = header_of(path)
    assert about["ss_base_model_version"] == version
    assert (about["ss_network_dim"], about["ss_network_alpha"]) == ("4", "4.0")
    assert about["modelspec.sai_model_spec"] == "1.0.1"
    assert about["modelspec.architecture"] == architecture
    assert about["modelspec.title"] == "my-lora"
    assert about["modelspec.resolution"] == resolution
    assert about.get("modelspec.prediction_type") == prediction
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert about["modelspec.hash_sha256"] == f"0x{hashlib.sha256(content[8 + length :]).hexdigest()}"

    digest = sha256_file(path)
    export(tuned, "kohya", path, overwrite=True)
    assert sha256_file(path) == digest


SD15_UNET = {"_diffusers_version": "0.6.0", "cross_attention_dim": 768, "sample_size": 64}
SD15_SCHEDULER = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "skip_prk_steps": True}
"""As published: without the keys that came later."""


@pytest.mark.parametrize(
    ("network", "sampler", "version", "prediction"),
    [
        (SD15_UNET, SD15_SCHEDULER, "sd_v1", "epsilon"),
        (SD15_UNET, {"prediction_type": "v_prediction"}, "sd_v1_v", "v"),
        (SD15_UNET, {"prediction_type": "sample"}, "sd_v1", None),
        ({"use_linear_projection": True}, {"prediction_type": "epsilon"}, "sd_v2", "epsilon"),
        ({"use_linear_projection": True}, {"prediction_type": "v_prediction"}, "sd_v2_v", "v"),
        ({"addition_embed_type": "text_time"}, {"prediction_type": "epsilon"}, "sdxl_base_v1-0", "epsilon"),
        ({"addition_embed_type": "text_time"}, {"prediction_type": "v_prediction"}, "sdxl_base_v1-0", "v"),
    ],
)
def test_a_base_is_told_by_what_its_files_say(
    network: dict[str, Any], sampler: dict[str, Any], version: str, prediction: str | None
) -> None:
    kind = stable_diffusion(network, sampler)
    assert (kind.version, kind.prediction) == (version, prediction)

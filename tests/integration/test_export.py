"""What is exported, other programs load, and it gives the pictures of the tuned model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from safetensors.torch import load_file
from torch import Tensor

from drtune.errors import UserError
from drtune.models.export import export
from drtune.models.kohya import flux_to_kohya
from drtune.models.loading import load_base
from drtune.models.miniature import CHECKPOINT
from drtune.models.tuned import open_tuned, put_on
from tests.pipelines import FolderOf, pictures, plain_pipeline
from tests.tuned import make_tuned

ALPHA_IS_NOT_RANK = ("lora.rank=4", "lora.alpha=10")
UNETS = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def tuned_of(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """A tuned model of that kind of base, made when it is first asked for; exporting leaves it as it is."""
    root = tmp_path_factory.mktemp("tuned")

    def make(kind: str) -> Path:
        folder = root / kind
        return folder if folder.exists() else make_tuned(folder, str(folder_of(kind)), *ALPHA_IS_NOT_RANK)

    return make


def tuned_pictures(folder: Path) -> Tensor:
    model, _ = open_tuned(folder)
    base = load_base(model.base_model)
    before = pictures(base.pipeline)
    put_on(base, folder, model)
    after = pictures(base.pipeline)
    assert (after - before).abs().max() > 0.02
    return after


def check(loaded: DiffusionPipeline, tuned: Path) -> None:
    assert (pictures(loaded) - tuned_pictures(tuned)).abs().max() <= 1e-3


@pytest.mark.parametrize("kind", [*UNETS, "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_the_diffusers_file_loads_onto_the_base(
    kind: str, folder_of: FolderOf, tuned_of: FolderOf, tmp_path: Path
) -> None:
    base, tuned = folder_of(kind), tuned_of(kind)
    export(str(tuned), "diffusers", str(tmp_path / "lora.safetensors"))
    loaded = plain_pipeline(base)
    loaded.load_lora_weights(tmp_path / "lora.safetensors")
    check(loaded, tuned)


@pytest.mark.parametrize("kind", UNETS)
def test_the_kohya_file_of_a_unet_loads_onto_the_base(
    kind: str, folder_of: FolderOf, tuned_of: FolderOf, tmp_path: Path
) -> None:
    base, tuned = folder_of(kind), tuned_of(kind)
    export(tuned, "kohya", tmp_path / "lora.safetensors")
    names = load_file(tmp_path / "lora.safetensors")
    assert all(name.startswith("lora_unet_") for name in names)
    assert {name.partition(".")[2] for name in names} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert all(tensor == 4 for name, tensor in names.items() if name.endswith(".alpha"))
    loaded = DiffusionPipeline.from_pretrained(base)
    loaded.load_lora_weights(tmp_path / "lora.safetensors")
    check(loaded, tuned)


@pytest.mark.parametrize("kind", [*UNETS, "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_the_merged_pipeline_needs_no_adapter(kind: str, tuned_of: FolderOf, tmp_path: Path) -> None:
    tuned = tuned_of(kind)
    export(tuned, "merged", tmp_path / "merged")
    assert not [path for path in (tmp_path / "merged").rglob("*") if "lora" in path.name]
    check(plain_pipeline(tmp_path / "merged"), tuned)


def test_full_weights_are_merged(folder_of: FolderOf, tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path / "tuned", str(folder_of("sdxl")), "weights=full")
    export(tuned, "merged", tmp_path / "merged")
    check(DiffusionPipeline.from_pretrained(tmp_path / "merged"), tuned)
    with pytest.raises(UserError, match="full weights; give --format merged"):
        export(tuned, "kohya", tmp_path / "lora.safetensors")


def test_a_merged_pipeline_has_the_precision_that_it_was_tuned_in(tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path / "tuned", "miniature", "compute.precision=bf16")
    export(tuned, "merged", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert (tmp_path / "merged" / "config.yaml").read_text() == (tuned / "config.yaml").read_text()
    settings = [path.read_text() for path in (tmp_path / "merged").rglob("*.json") if "tokenizer" not in path.name]
    assert len(settings) >= 5
    assert all("_name_or_path" not in text for text in settings)
    export(tuned, "merged", tmp_path / "merged", overwrite=True)


def flux_adapter(rank: int) -> dict[str, Tensor]:
    """Adapters on one block of each kind, as wide as in the published model: no other is read by diffusers."""
    width, mlp = 3072, 12288
    double = {
        **dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_add_out"), (width, width)),
        **dict.fromkeys(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), (width, width)),
        **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj"), (width, mlp)),
        **dict.fromkeys(("ff.net.2", "ff_context.net.2"), (mlp, width)),
    }
    single = {
        **dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v"), (width, width)),
        "proj_mlp": (width, mlp),
        "proj_out": (width + mlp, width),
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block, layers in (("transformer_blocks.3", double), ("single_transformer_blocks.7", single)):
        for layer, (inputs, outputs) in layers.items():
            name = f"transformer.{block}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    return tensors


def test_diffusers_reads_the_kohya_names_of_flux_as_the_same_update_of_every_layer() -> None:
    tensors = flux_adapter(rank=2)
    read = FluxPipeline.lora_state_dict(flux_to_kohya(tensors))
    assert set(read) == set(tensors)
    probe = torch.linspace(-1, 1, 15360)
    for name in tensors:
        if name.endswith("lora_A.weight"):
            up = name.replace("lora_A", "lora_B")
            seen = probe[: tensors[name].shape[1]]
            expected = tensors[up] @ (tensors[name] @ seen)
            assert torch.allclose(read[up] @ (read[name] @ seen), expected, rtol=1e-4, atol=1e-3)


def test_every_layer_of_flux_that_gets_an_adapter_by_default_has_a_name_of_kohyas(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    tuned = make_tuned(tmp_path / "tuned", str(folder_of("flux_schnell")))
    export(tuned, "kohya", tmp_path / "lora.safetensors")
    names = {name.partition(".")[0] for name in load_file(tmp_path / "lora.safetensors")}
    double = ("img_attn_qkv", "img_attn_proj", "img_mlp_0", "img_mlp_2")
    text = ("txt_attn_qkv", "txt_attn_proj", "txt_mlp_0", "txt_mlp_2")
    assert names == {
        *(f"lora_unet_double_blocks_0_{layer}" for layer in (*double, *text)),
        *(f"lora_unet_single_blocks_0_{layer}" for layer in ("linear1", "linear2")),
    }


def test_layers_that_kohya_fuses_must_all_have_an_adapter() -> None:
    tensors = {name: tensor for name, tensor in flux_adapter(1).items() if ".to_v." not in name}
    with pytest.raises(UserError, match=r"attn\.to_q, attn\.to_k have an adapter; give --format diffusers"):
        flux_to_kohya(tensors)


def test_a_layer_that_kohya_has_not_is_named() -> None:
    with pytest.raises(UserError, match="no x_embedder; give --format diffusers"):
        flux_to_kohya({"transformer.x_embedder.lora_A.weight": torch.ones(1), "": torch.ones(1)})


def test_what_cannot_be_written_is_one_line(tuned_of: FolderOf, tmp_path: Path) -> None:
    tuned = tuned_of("sd3")
    with pytest.raises(UserError, match="not for a StableDiffusion3Pipeline; give --format diffusers") as refusal:
        export(tuned, "kohya", tmp_path / "lora.safetensors")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        export(tuned, "diffusers", tmp_path / "lora")
    (tmp_path / "lora.safetensors").touch()
    with pytest.raises(UserError, match="exists already"):
        export(tuned, "diffusers", tmp_path / "lora.safetensors")


def test_the_miniature_itself_can_be_exported(tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path / "tuned", "miniature", *ALPHA_IS_NOT_RANK)
    export(tuned, "kohya", tmp_path / "lora.safetensors")
    loaded = DiffusionPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    loaded.load_lora_weights(tmp_path / "lora.safetensors")
    check(loaded, tuned)

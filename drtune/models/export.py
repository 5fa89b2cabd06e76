"""A tuned model in the formats of other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, FluxTransformer2DModel, UNet2DConditionModel
from huggingface_hub import snapshot_download
from safetensors.torch import load

from drtune.config import Config
from drtune.contracts import CONFIG, TunedModel
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.files.output import base_folder, claimed, mark
from drtune.models.adapter import adapter_bytes, load_adapter
from drtune.models.index import read_index
from drtune.models.kohya import (
    FLUX_SIDE,
    flux,
    flux_to_kohya,
    metadata_of_kind,
    stable_diffusion,
    unet_to_kohya,
)
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.miniature import CHECKPOINT
from drtune.models.tensors import stream_tensors
from drtune.models.tuned import open_tuned, put_on


def export(model_folder: str | Path, form: str, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a TunedModel to `out` in another format.

    - `diffusers`: its LoRA as one file for `load_lora_weights`.
    - `kohya`: its LoRA as one file with kohya's names, for ComfyUI and others.
    - `merged`: the pipeline with the tuned weights in it, as a folder for `DiffusionPipeline.from_pretrained`.

    Raises:
        UserError: the model is not what its manifest says, it has no such format, or something stands at `out`.
    """
    model_folder = Path(model_folder)
    quiet_libraries()
    model, config = open_tuned(model_folder)
    inputs = [model_folder, base_folder(model.base_model)]
    with claimed(out, "MergedPipeline" if form == "merged" else None, overwrite=overwrite, inputs=inputs) as out:
        if form == "merged":
            if given := config.evaluation.sampler.base_steps:
                raise UserError(
                    f"format merged: the first {given} steps are the base's (evaluation.sampler.base_steps), and one "
                    "network has no adapter that could be put on later; give --format diffusers"
                )
            _merge(model_folder, model, config, out)
            return
        if model.weights == "full":
            raise UserError(f"format {form}: holds a LoRA, and {model_folder} has full weights; give --format merged")
        if out.suffix != ".safetensors":
            raise UserError(f"output {out}: format {form} is one file; give a name that ends in .safetensors")
        adapter = adapter_bytes(*load_adapter(model_folder / model.weights_file))
        if form == "kohya":
            _save_kohya(adapter, model, config, out)
        else:
            with replacing(out) as written:
                written.write_bytes(adapter)


def _save_kohya(adapter: bytes, model: TunedModel, config: Config, out: Path) -> None:
    source = str(CHECKPOINT) if model.base_model == "miniature" else model.base_model
    where = {"revision": model.base_revision}
    tensors = load(adapter)
    try:
        match read_index(model.base_model, model.base_revision)["_class_name"]:
            case "StableDiffusionPipeline" | "StableDiffusionXLPipeline":
                network = UNet2DConditionModel.load_config(source, subfolder="unet", **where)
                sampler = DDIMScheduler.load_config(source, subfolder="scheduler", **where)
                vae = AutoencoderKL.load_config(source, subfolder="vae", **where)
                side = network["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
                kind, named = stable_diffusion(network, sampler), unet_to_kohya(tensors)
            case "FluxPipeline":
                network = FluxTransformer2DModel.load_config(source, subfolder="transformer", **where)
                kind, named, side = flux(network), flux_to_kohya(tensors), FLUX_SIDE
            case other:
                raise UserError(
                    "format kohya: is written for Stable Diffusion 1, 2 and XL and for FLUX.1, and not for a "
                    f"{other}; give --format diffusers"
                )
    except OSError as error:
        raise UserError(f"base_model={model.base_model!r}: cannot be read ({str(error).splitlines()[0]})") from None
    about = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.lora.rank),
        "ss_network_alpha": str(float(config.lora.rank)),
        **metadata_of_kind(kind, named, out.stem, width=config.width or side, height=config.height or side),
        "modelspec.description": f"{model.base_model}, tuned by {config.method.name} on {', '.join(config.rewards)}",
    }
    stream_tensors(out, named, about)


def _copy_part(name: str, model: TunedModel, folder: Path) -> None:
    """Put a part of the base in place of what was loaded of it, as its files and its index have it."""
    source = base_folder(model.base_model) or Path(
        snapshot_download(model.base_model, revision=model.base_revision, allow_patterns=f"{name}/*")
    )
    shutil.rmtree(folder / name)
    shutil.copytree(source / name, folder / name)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index[name] = read_index(model.base_model, model.base_revision)[name]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _merge(model_folder: Path, model: TunedModel, config: Config, out: Path) -> None:
    """Merged in fp32, and rounded once to the precision that it was tuned in."""
    precision = config.compute.precision
    base = load_base(model.base_model, model.base_revision, precision=precision, network_precision="fp32")
    put_on(base, model_folder, model)
    if model.weights == "lora":
        base.pipeline.fuse_lora()
        base.pipeline.unload_lora_weights()
    base.network.to(DTYPES[precision])
    with replacing(out) as folder:
        base.pipeline.save_pretrained(folder)
        for name in base.pieces:
            _copy_part(name, model, folder)
        for path in (folder / "model_index.json", *folder.glob("*/config.json")):
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("_name_or_path", None)  # where the base was found on this machine
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(model_folder / CONFIG, folder / CONFIG)  # how it was tuned
        mark(folder, "MergedPipeline")

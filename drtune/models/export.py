"""A tuned model in the formats of other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import DiffusionPipeline

from drtune.config import Config
from drtune.contracts import CONFIG, TunedModel
from drtune.errors import UserError
from drtune.files.local import claim, replacing
from drtune.models.kohya import flux_to_kohya, unet_to_kohya
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.miniature import CHECKPOINT
from drtune.models.tensors import load_tensors, save_tensors
from drtune.models.tuned import open_tuned, put_on


def export(model_folder: Path, form: str, out: Path, *, overwrite: bool = False) -> None:
    """Write a TunedModel to `out` in another format.

    - `diffusers`: its LoRA as one file for `load_lora_weights`, with alpha in the metadata.
    - `kohya`: its LoRA as one file with kohya's names, for ComfyUI and others.
    - `merged`: the pipeline with the tuned weights in it, as a folder for `DiffusionPipeline.from_pretrained`.

    Raises:
        UserError: the model is not what its manifest says, it has no such format, or something stands at `out`.
    """
    out = claim(out, overwrite=overwrite, inputs=[model_folder])
    quiet_libraries()
    model, config = open_tuned(model_folder)
    if form == "merged":
        _merge(model_folder, model, config, out)
        return
    if model.weights == "full":
        raise UserError(f"format {form}: holds a LoRA, and {model_folder} has full weights; give --format merged")
    if out.suffix != ".safetensors":
        raise UserError(f"output {out}: format {form} is one file; give a name that ends in .safetensors")
    source = model_folder / model.weights_file
    if form == "kohya":
        _save_kohya(source, model, config, out)
    else:
        with replacing(out) as written:
            shutil.copyfile(source, written)


def _save_kohya(source: Path, model: TunedModel, config: Config, out: Path) -> None:
    tensors, _ = load_tensors(source)
    rank, alpha = config.lora.rank, config.lora.alpha
    match _pipeline_of(model):
        case "StableDiffusionPipeline" | "StableDiffusionXLPipeline":
            named = unet_to_kohya(tensors, alpha)
        case "FluxPipeline":
            named = flux_to_kohya(tensors, alpha)
        case kind:
            raise UserError(
                f"format kohya: diffusers reads none for a {kind}, so that it could not be checked; "
                "give --format diffusers, which ComfyUI reads as well"
            )
    about = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    save_tensors(out, named, about)


def _pipeline_of(model: TunedModel) -> str:
    """The class of the base's pipeline, from its index alone."""
    source = CHECKPOINT if model.base_model == "miniature" else model.base_model
    try:
        kind: str = DiffusionPipeline.load_config(source, revision=model.base_revision)["_class_name"]
    except OSError as error:
        raise UserError(f"base_model={model.base_model!r}: cannot be read ({str(error).splitlines()[0]})") from None
    return kind


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
        for path in (folder / "model_index.json", *folder.glob("*/config.json")):
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("_name_or_path", None)  # where the base was found on this machine
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(model_folder / CONFIG, folder / CONFIG)  # how it was tuned

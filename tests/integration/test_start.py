"""An adapter that exists as the start of another: it means what it meant, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from drtune.config import Config, LoraSection, load_config
from drtune.contracts import ADAPTER, TunedModel
from drtune.errors import UserError
from drtune.models.adapter import add_adapter_from
from drtune.models.export import export
from drtune.models.loading import load_base
from drtune.models.start import read_start
from drtune.training.trainer import train
from tests.pipelines import FolderOf, pictures, plain_pipeline
from tests.tuned import make_tuned

RANK = 4


def started(base_model: str, init: Path | str, **lora: object) -> DiffusionPipeline:
    section = LoraSection(init=str(init), **({"rank": RANK, "alpha": 2.0} | lora))  # type: ignore[arg-type]
    base = load_base(base_model)
    add_adapter_from(base, section, 0, read_start(Config(lora=section)))
    return base.pipeline


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "flux_dev", "z_image", "qwen_image", "qwen_image_21"])
def test_a_run_starts_where_an_adapter_of_its_own_ended(tmp_path: Path, folder_of: FolderOf, kind: str) -> None:
    base_model = str(folder_of(kind))
    tuned = make_tuned(tmp_path / "tuned", base_model, f"lora.rank={RANK}", "lora.alpha=10")
    wanted = plain_pipeline(folder_of(kind))
    wanted.load_lora_weights(tuned / Path(ADAPTER).parent, weight_name=Path(ADAPTER).name)
    there = pictures(wanted)
    assert torch.equal(pictures(started(base_model, tuned)), pictures(started(base_model, tuned / ADAPTER)))
    torch.testing.assert_close(pictures(started(base_model, tuned)), there, rtol=0, atol=2e-3)
    assert (pictures(load_base(base_model).pipeline) - there).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])  # of FLUX.1's layers diffusers expects the published widths
def test_a_file_of_kohyas_is_read_with_its_alpha(tmp_path: Path, folder_of: FolderOf, kind: str) -> None:
    base_model = str(folder_of(kind))
    tuned = make_tuned(tmp_path / "tuned", base_model, f"lora.rank={RANK}", "lora.alpha=10")
    export(tuned, "kohya", tmp_path / "kohya.safetensors")
    wanted = pictures(started(base_model, tuned))
    torch.testing.assert_close(pictures(started(base_model, tmp_path / "kohya.safetensors")), wanted, rtol=0, atol=2e-3)
    tensors = load_file(tmp_path / "kohya.safetensors")
    halved = {name: tensor / 2 if name.endswith(".alpha") else tensor for name, tensor in tensors.items()}
    doubled = {name: 2 * tensor if ".lora_up." in name else tensor for name, tensor in halved.items()}
    save_file(doubled, tmp_path / "doubled.safetensors")
    torch.testing.assert_close(
        pictures(started(base_model, tmp_path / "doubled.safetensors")), wanted, rtol=0, atol=2e-3
    )


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, folder_of: FolderOf) -> None:
    base_model = str(folder_of("sd15"))
    tuned = make_tuned(tmp_path / "tuned", base_model, f"lora.rank={RANK}")
    with pytest.raises(UserError, match=r"lora\.init='.*': is of rank 4, and lora\.rank=8; give lora\.rank=4$"):
        started(base_model, tuned, rank=8)
    with pytest.raises(UserError, match=r"has an adapter for .*, which is none of lora\.targets; give lora.targets="):
        started(base_model, tuned, targets=("to_q",))
    with pytest.raises(UserError, match=r"does not fit this StableDiffusionXL|layers are not in this base"):
        started(str(folder_of("sdxl")), tuned)
    with pytest.raises(UserError, match="only the transformer is tuned"):
        started(str(folder_of("flux_dev")), tuned)
    tensors = load_file(tuned / ADAPTER)
    for name, error in (
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "only the unet is tuned; take it"),
        ("unet.mid_block.attentions.0.proj_in.dora_scale", "holds unet.*dora_scale, which a LoRA"),
        ("unet.no_such_block.to_q.lora_A.weight", "1 of its .* layers are not in this base|does not fit"),
    ):
        save_file(tensors | {name: torch.zeros(RANK, 4)}, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match=error) as raised:
            started(base_model, tmp_path / "other.safetensors")
        assert "\n" not in str(raised.value)
    (tmp_path / "text.safetensors").write_text("no tensors")
    for init, error in (
        ("gausian", "cannot be read .*; give zeros or gaussian, the file of an adapter, the folder of a run"),
        (str(tmp_path), "holds none of adapter/pytorch_lora_weights.safetensors, pytorch_lora"),
        (str(tmp_path / "text.safetensors"), "is no safetensors file"),
    ):
        with pytest.raises(UserError, match=error):
            read_start(Config(lora=LoraSection(init=init)))


def test_a_run_from_an_adapter_is_recorded_and_resumes_only_from_the_same(prompts: Path, tmp_path: Path) -> None:
    short = ["batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "checkpoint_every=1"]
    short += ["evaluation.sampler.steps=2", "evaluation.sampler.guidance_scale=1", "optimizer.learning_rate=1e-9"]
    tuned, out = make_tuned(tmp_path / "tuned", "miniature", strength=0.02), tmp_path / "run"
    config = load_config(None, [*short, "steps=2", f"lora.init={tuned}"])
    with pytest.raises(UserError, match="is what it would be made from"):
        train(config, prompts, tuned, overwrite=True)
    model = train(config, prompts, out)
    start = TunedModel.load(tuned).weights_sha256
    assert model.start_sha256 == start == TunedModel.load(out).start_sha256
    before, after = (load_file(folder / ADAPTER) for folder in (tuned, out))
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)  # at that learning rate

    longer = load_config(None, [*short, "steps=3", f"lora.init={tuned}"])
    assert train(longer, prompts, out, resume=True).start_sha256 == start
    save_file({name: 2 * tensor for name, tensor in before.items()}, tuned / ADAPTER)
    for steps in (3, 4):  # finished as it is, or not yet
        with pytest.raises(UserError, match=r"lora\.init=.* is another file than the run began from; give the same"):
            train(load_config(None, [*short, f"steps={steps}", f"lora.init={tuned}"]), prompts, out, resume=True)

"""Runs on a network in four bits, and with moments in eight: trained, resumed, exported and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel

from drtune.config import load_config
from drtune.evaluation.run import evaluate
from drtune.models.export import export
from drtune.prompts.prepare import prepare
from drtune.training.trainer import train
from tests.pipelines import FolderOf, pictures, plain_pipeline, side_of

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("z_image", ["compute.quantization=nf4", "base_penalty=0.1"]),
        ("sdxl", ["compute.quantization=int8", "base_penalty=0.1"]),
        ("flux2_klein", ["compute.quantization=fp8"]),
        pytest.param("qwen_image_21", ["compute.quantization=nf4"], marks=pytest.mark.slow),
        ("sdxl", ["compute.quantization=nf4", "base_penalty=0.1", "optimizer.eight_bit=true", "lora.rank=128"]),
        ("sdxl", ["weights=full", "optimizer.eight_bit=true"]),
    ],
    ids=["four bits", "integers", "floats", "one by one", "both", "moments"],
)
def test_a_run_in_few_bits_resumes_and_is_exported_and_evaluated(
    kind: str, overrides: list[str], folder_of: FolderOf, tmp_path: Path
) -> None:
    prompts = [{"text": f"a {colour} star", "split": "train"} for colour in ("red", "blue", "green")]
    prompts.append({"text": "a grey star", "split": "eval"})
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    prepare(tmp_path / "prompts.jsonl", tmp_path / "prompts")
    settings = ["batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "ema_decay=0.5"]
    settings += [f"height={side_of(kind)}", f"width={side_of(kind)}"]
    settings += ["rewards={brightness: 1}", "optimizer.learning_rate=1e-2"]
    settings += ["evaluation.sampler={steps: 2, guidance_scale: 2}", "evaluation.rewards=[brightness]"]
    settings += ["evaluation.features=preference", *overrides]
    settings += [f"base_model={folder_of(kind)}", "compute.gradient_checkpointing=true", "compute.micro_batch_size=1"]

    def run(steps: int, out: str, *, resume: bool = False) -> str:
        config = load_config(None, [*settings, f"steps={steps}"])
        return train(config, tmp_path / "prompts", tmp_path / out, resume=resume).weights_sha256

    whole = run(2, "model")
    run(1, "parts")
    assert run(2, "parts", resume=True) == whole

    assert evaluate(tmp_path / "model", tmp_path / "prompts", tmp_path / "report").scores[0].gain != 0
    export(tmp_path / "model", "merged", tmp_path / "merged")
    adapted = plain_pipeline(folder_of(kind))
    plain = pictures(adapted)
    if "weights=full" in overrides:
        adapted.unet = AutoModel.from_pretrained(str(tmp_path / "model"), subfolder="network")
    else:
        export(tmp_path / "model", "diffusers", tmp_path / "lora.safetensors")
        adapted.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    ours = pictures(adapted)
    assert (ours - plain).abs().max() > 1e-3
    merged = plain_pipeline(tmp_path / "merged")
    assert torch.allclose(pictures(merged), ours, atol=1e-4)

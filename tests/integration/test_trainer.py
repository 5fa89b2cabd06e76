"""Training runs on the miniature: resume, reload, processes, and what stops them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from drtune.config import load_config
from drtune.contracts import ADAPTER, TunedModel
from drtune.errors import UserError
from drtune.files import sha256_file
from drtune.miniature.world import scenes
from drtune.model import decode, load_pipeline
from drtune.prompts import prepare
from drtune.sampling import ddim_steps
from drtune.sweep import roll_out
from drtune.trainer import Plan, Trainer, check_finite, train

SHORT = ["batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "checkpoint_every=2"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=60)))
    prepare(folder / "captions.txt", folder / "set")
    return folder / "set"


def adapter_of(out: Path) -> Path:
    return out / ADAPTER


def logged(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(prompts: Path, tmp_path: Path) -> None:
    ema = [*SHORT, "ema_decay=0.5"]
    whole = train(load_config(None, [*ema, "steps=4"]), prompts, tmp_path / "whole")
    train(load_config(None, [*ema, "steps=2"]), prompts, tmp_path / "parts")
    resumed = train(load_config(None, [*ema, "steps=4"]), prompts, tmp_path / "parts", resume=True)
    assert resumed.adapter_sha256 == whole.adapter_sha256
    assert resumed.reward == whole.reward
    without_times = [[{**line, "seconds": 0} for line in logged(tmp_path / out)] for out in ("whole", "parts")]
    assert without_times[0] == without_times[1]
    assert [line["step"] for line in without_times[0]] == [1, 2, 3, 4]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(prompts: Path, tmp_path: Path) -> None:
    options = [word for setting in [*SHORT, "steps=6", "sample_every=6"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "drtune.commands", "train", "--prompts", str(prompts), *options, "--out"]
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    killed = subprocess.Popen([*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    subprocess.run([*command, tmp_path / "killed", "--resume"], check=True, capture_output=True)
    assert sha256_file(adapter_of(tmp_path / "killed")) == sha256_file(adapter_of(tmp_path / "whole"))
    assert [line["step"] for line in logged(tmp_path / "killed")] == [1, 2, 3, 4, 5, 6]


def test_the_adapter_gives_the_tuned_model_to_plain_diffusers(prompts: Path, tmp_path: Path) -> None:
    """Alpha differs from the rank, which a LoRA without metadata would lose."""
    overrides = [*SHORT, "steps=2", "lora.rank=4", "lora.alpha=16", "optimizer.learning_rate=1e-2"]
    trainer = Trainer(load_config(None, overrides), prompts, tmp_path / "out", Accelerator(cpu=True))
    (tmp_path / "out").mkdir()
    trainer.run()
    texts = trainer.sample_texts[:2]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = trainer.pipeline
    denoiser = trainer._denoiser(trainer.sample_embeds[[0, 1]], 3.0)
    plan = Plan(stop=5, trained=(), alpha=0.0)
    ours_images = decode(ours, roll_out(denoiser, ddim_steps(ours.scheduler, 6), noise, plan).clean_BCHW)

    plain = load_pipeline("miniature", None)
    arguments = {"num_inference_steps": 6, "guidance_scale": 3.0, "latents": noise, "output_type": "pt"}
    before = plain(texts, **arguments).images
    plain.load_lora_weights(tmp_path / "out" / "adapter")
    after = plain(texts, **arguments).images
    assert (after - ours_images).abs().max() <= 1e-3
    assert (after - before).abs().max() > 0.05


def test_two_processes_make_the_same_update_as_one(prompts: Path, tmp_path: Path) -> None:
    options = [word for setting in [*SHORT, "steps=1"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "drtune.commands", "train", "--prompts", str(prompts), *options]
    for processes in (1, 2):
        out = ["--out", str(tmp_path / str(processes)), "--set", f"processes={processes}"]
        subprocess.run([*command, *out], check=True, capture_output=True)
    one, two = (logged(tmp_path / str(processes))[0] for processes in (1, 2))
    for key in ("reward", "grad_norm"):
        assert two[key] == pytest.approx(one[key], rel=1e-5)
    assert two["rewards"] == pytest.approx(one["rewards"], rel=1e-5)
    # Adam's first step has the sign of the gradient: equal gradients move every weight that matters alike.
    ones, twos = (load_file(adapter_of(tmp_path / str(processes))) for processes in (1, 2))
    same = [torch.isclose(ones[name], twos[name], atol=1e-6).float().mean() for name in ones]
    assert torch.stack(same).mean() > 0.999


def test_a_checkpoint_of_another_configuration_is_refused_by_the_keys_that_differ(
    prompts: Path, tmp_path: Path
) -> None:
    train(load_config(None, [*SHORT, "steps=2"]), prompts, tmp_path)
    before = sha256_file(tmp_path / "manifest.json")
    with pytest.raises(UserError, match=r"optimizer\.learning_rate \(0\.5 here, 0\.0002 there\)") as refusal:
        train(load_config(None, [*SHORT, "steps=3", "optimizer.learning_rate=0.5"]), prompts, tmp_path, resume=True)
    assert "\n" not in str(refusal.value)
    assert "sampler.steps" not in str(refusal.value)
    assert sha256_file(tmp_path / "manifest.json") == before


def test_a_damaged_checkpoint_is_refused(prompts: Path, tmp_path: Path) -> None:
    config = load_config(None, [*SHORT, "steps=2"])
    train(config, prompts, tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: damaged"):
        train(config, prompts, tmp_path, resume=True)


def test_an_existing_run_is_not_written_over(prompts: Path, tmp_path: Path) -> None:
    config = load_config(None, [*SHORT, "steps=1"])
    first = train(config, prompts, tmp_path)
    with pytest.raises(UserError, match="exists already"):
        train(config, prompts, tmp_path)
    assert TunedModel.load(tmp_path) == first


def test_a_reward_that_is_not_a_number_stops_before_the_weights_move(prompts: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(None, SHORT), prompts, tmp_path, Accelerator(cpu=True))
    before = {name: weight.detach().clone() for name, weight in trainer.state.weights.items()}
    trainer.pipeline.vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"update 1: .*nan.*learning_rate"):
        trainer.update(1)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.state.weights.items())


def test_a_finite_update_passes() -> None:
    check_finite(1, reward=-3.0, grad_norm=1e6, learning_rate=1e-4)


def test_only_the_adapter_trains_and_every_part_of_it_does(prompts: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(None, SHORT), prompts, tmp_path, Accelerator(cpu=True))
    unet = trainer.pipeline.unet
    frozen = {name: weight.clone() for name, weight in unet.named_parameters() if "lora" not in name}
    before = {name: weight.detach().clone() for name, weight in trainer.state.weights.items()}
    for step in (1, 2):
        trainer.update(step)
    assert all("lora" in name for name in before)
    assert all(torch.equal(weight, frozen[name]) for name, weight in unet.named_parameters() if name in frozen)
    assert all(not torch.equal(weight, before[name]) for name, weight in trainer.state.weights.items())


def test_an_epoch_shows_every_prompt_once(prompts: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(None, SHORT), prompts, tmp_path, Accelerator(cpu=True))
    count = len(trainer.texts)
    drawn = [trainer._prompt_of(step, slot) for step in range(1, count + 1) for slot in range(2)]
    assert sorted(drawn[:count]) == list(range(count))
    assert sorted(drawn[count:]) == list(range(count))
    assert drawn[:count] != drawn[count:]

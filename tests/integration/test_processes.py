"""Runs of several processes: what they share out, that they make what one process makes, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from drtune.config import Config, load_config
from drtune.contracts import NETWORK, NETWORK_CONFIG, TunedModel
from drtune.errors import UserError
from drtune.prompts.prepare import open_prompts
from drtune.training.processes import Processes
from drtune.training.run import Trainer
from drtune.training.trainer import train
from tests.lives import pids_of, wait_until_gone
from tests.pipelines import FolderOf
from tests.together import together

SHORT = [
    "batch_size=4",
    "sampler.steps=4",
    "method.trained_steps=2",
    "method.early_stop=2",
    "evaluation.sampler.steps=2",
    "rewards.brightness=1.0",
    "optimizer.max_grad_norm=1e9",
]


def config_of(base: Path, *overrides: str) -> Config:
    return load_config(None, [*SHORT, f"base_model={base}", *overrides])


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def checkpoint_of(out: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint, whole; shards are rows of them, in the order of the processes."""
    (newest,) = sorted((out / "checkpoints").iterdir())[-1:]
    if newest.is_file():
        return load_file(newest)
    whole: dict[str, list[Tensor]] = {}
    for path in sorted(newest.glob("*.safetensors")):
        for name, shard in load_file(path).items():
            whole.setdefault(name, []).append(shard)
    return {name: torch.cat(shards) if shards[0].dim() else shards[0] for name, shards in whole.items()}


def gradients_of(out: Path) -> Tensor:
    """All gradients of a run's only update: Adam's first moment is one tenth of them."""
    return torch.cat([10 * value.flatten() for name, value in checkpoint_of(out).items() if name.endswith("exp_avg")])


# --- one update -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        ("sdxl", ["weights=lora"]),
        pytest.param("sdxl", ["weights=lora", "compute.micro_batch_size=1"], marks=pytest.mark.slow),
        ("sdxl", ["other_sizes=[32x16]", "steps=2"]),
        pytest.param("sdxl", ["weights=full"], marks=pytest.mark.slow),
        ("sd3", ["weights=full"]),
        pytest.param("sd3", ["weights=full", "compute.micro_batch_size=1"], marks=pytest.mark.slow),
        pytest.param("sd3", ["weights=full", "compute.keep_graphs=2"], marks=pytest.mark.slow),
        pytest.param("sd3", ["weights=full", "method.weight_rho=0.05"], marks=pytest.mark.slow),
        pytest.param("sd3", ["weights=full", "compute.gradient_checkpointing=true"], marks=pytest.mark.slow),
        ("sd3", ["weights=full", "method.name=draft_k", "sampler.guidance_scale=2"]),
        # of which each prompt goes through the network by itself
        pytest.param("qwen_image_21", ["weights=full", "height=64", "width=64"], marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_two_processes_have_the_gradient_of_one_with_the_double_batch(
    base: str, overrides: list[str], prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    config = config_of(folder_of(base), "steps=1", *overrides)
    train(config, prompts, tmp_path / "one")
    models = together(2, train, config, prompts, tmp_path / "two")
    assert models[0] == models[1]
    ones, twos = gradients_of(tmp_path / "one"), gradients_of(tmp_path / "two")
    assert ones.norm() > 0
    assert (ones - twos).norm() <= 1e-5 * ones.norm()
    one, two = logged(tmp_path / "one")[0], logged(tmp_path / "two")[0]
    for key in ("reward", "grad_norm"):
        assert two[key] == pytest.approx(one[key], rel=1e-5)


def shares(config: Config, prompts: Path) -> tuple[int, int, list[str]]:
    """Numbers of weights that train, of those that this process keeps, and the plans of some updates."""
    trainer = Trainer(config, open_prompts(prompts), Path("nowhere"), Processes())
    weights = trainer.state.weights.values()
    kept = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)
    plans = [repr(trainer.update(step).trained) for step in range(1, 4)]
    moments = [value for state in trainer.state.optimizer.state.values() for value in state.values() if value.dim()]
    assert sum((value.to_local() if isinstance(value, DTensor) else value).numel() for value in moments) == 2 * kept
    return sum(weight.numel() for weight in weights), kept, plans


@pytest.mark.parametrize("base", ["sdxl", "sd3"])
def test_each_of_two_processes_keeps_half_of_all_weights_and_moments(
    base: str, prompts: Path, folder_of: FolderOf
) -> None:
    config = config_of(folder_of(base), "weights=full", "ema_decay=0.9")
    (total, first, plans), (_, second, other_plans) = together(2, shares, config, prompts)
    assert first + second == total
    assert first == pytest.approx(total / 2, rel=0.01)
    assert plans == other_plans


class Sent(TorchDispatchMode):
    """Bytes of every tensor that goes to the other processes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.namespace == "c10d":
            self.calls.append((operation.name(), sum(tensor.nbytes for tensor in args[0])))
        return operation(*args, **(kwargs or {}))


def sent(config: Config, prompts: Path) -> tuple[int, list[tuple[str, int]]]:
    """Bytes of the weights that train, and what an update sends."""
    trainer = Trainer(config, open_prompts(prompts), Path("nowhere"), Processes())
    with Sent() as calls:
        trainer.update(1)
    return sum(weight.nbytes for weight in trainer.state.weights.values()), calls.calls


def test_an_update_sends_the_gradient_of_the_adapter_once_and_a_few_numbers(prompts: Path, folder_of: FolderOf) -> None:
    config = config_of(folder_of("sdxl"), "compute.precision=bf16", "method.trained_steps=3")
    for trainable, calls in together(2, sent, config, prompts):
        (gradient, numbers) = calls
        assert gradient == ("c10d::allreduce_", trainable)
        assert numbers[1] <= 32


def place() -> tuple[str, str]:
    """The device of this process, and how it speaks to the others."""
    return str(Processes().device), torch.distributed.get_backend()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device, which is then used")
def test_without_a_cuda_device_processes_compute_on_the_cpu_and_speak_gloo() -> None:
    assert together(2, place) == [("cpu:0", "gloo"), ("cpu:0", "gloo")]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for each process")
def test_each_process_takes_the_cuda_device_of_its_local_rank_and_speaks_nccl() -> None:
    assert together(2, place) == [("cuda:0", "nccl"), ("cuda:1", "nccl")]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for each process")
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_two_cuda_devices_train_in_bf16(weights: str, prompts: Path, folder_of: FolderOf, tmp_path: Path) -> None:
    config = config_of(folder_of("sdxl"), f"weights={weights}", "compute.precision=bf16", "steps=2", "ema_decay=0.5")
    together(2, train, config, prompts, tmp_path / "out")
    assert all(update["grad_norm"] > 0 for update in logged(tmp_path / "out"))


def after_the_first(file: Path) -> list[str]:
    """What this process finds in the file, when it has waited for the first to write there, one time and another."""
    processes, found = Processes(), []
    for word in ("one", "another"):
        if processes.is_main:
            time.sleep(1)
            file.write_text(word)
        processes.wait_for_main()
        found.append(file.read_text())
        processes.wait()
    return found


def test_the_others_wait_until_the_first_is_through_with_what_it_does_alone(tmp_path: Path) -> None:
    assert together(2, after_the_first, tmp_path / "file") == [["one", "another"]] * 2


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size=3: cannot be shared evenly by 2 processes"):
        together(2, share_of_three)


def share_of_three() -> None:
    Processes().share(3)


def test_two_processes_save_the_whole_network(prompts: Path, folder_of: FolderOf, tmp_path: Path) -> None:
    config = config_of(folder_of("sd3"), "weights=full", "steps=1")
    alone = train(config, prompts, tmp_path / "one")
    shared = together(2, train, config, prompts, tmp_path / "two")[0]
    assert (tmp_path / "two" / NETWORK_CONFIG).read_text() == (tmp_path / "one" / NETWORK_CONFIG).read_text()
    ones, twos = (load_file(tmp_path / folder / NETWORK) for folder in ("one", "two"))
    assert {name: value.shape for name, value in ones.items()} == {name: value.shape for name, value in twos.items()}
    assert alone.weights == shared.weights == "full"


# --- runs that stop and go on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts", [(2, 1), pytest.param((1, 2), marks=pytest.mark.slow)], ids=["two then one", "one then two"]
)
def test_another_number_of_processes_goes_on_with_sharded_weights(
    counts: tuple[int, int], prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    settings = ["weights=full", "ema_decay=0.5", "optimizer.learning_rate=1e-5"]
    train(config_of(folder_of("sd3"), *settings, "steps=3"), prompts, tmp_path / "whole")
    for count, steps in zip(counts, (2, 3), strict=True):
        config = config_of(folder_of("sd3"), *settings, f"steps={steps}")
        together(count, train, config, prompts, tmp_path / "parts", resume=True)
    whole, parts = checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert (parts[name] - tensor).norm() <= 1e-3 * tensor.norm(), name
    assert logged(tmp_path / "parts")[2]["reward"] == pytest.approx(logged(tmp_path / "whole")[2]["reward"], rel=1e-5)


def torchrun(options: list[str], out: Path, prompts: Path, config: Config) -> subprocess.Popen[str]:
    file = out.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    places = [f"--config={file}", f"--prompts={prompts}", f"--out={out}", "--resume"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "drtune.training.worker", *places],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process_of(run: subprocess.Popen[str], rank: int) -> int:
    """The id of one of the processes that torchrun has started."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    return next(int(child) for child in children if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"))


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_started_again_and_ends_bit_for_bit_the_same(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    settings = ["weights=full", "ema_decay=0.5", "steps=6", "checkpoint_every=2", "sample_every=6"]
    config = config_of(folder_of("sd3"), *settings)
    whole = together(2, train, config, prompts, tmp_path / "whole")[0]
    run = torchrun(["--standalone", "--nproc-per-node=2", "--max-restarts=1"], tmp_path / "killed", prompts, config)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.exists() or len(logged(tmp_path / "killed")) < 3:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    os.kill(process_of(run, rank=1), signal.SIGKILL)
    _, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert TunedModel.load(tmp_path / "killed") == whole
    assert [line["step"] for line in logged(tmp_path / "killed")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_nodes_make_what_two_processes_on_one_make(prompts: Path, folder_of: FolderOf, tmp_path: Path) -> None:
    config = config_of(folder_of("sdxl"), "steps=2")
    one_node = together(2, train, config, prompts, tmp_path / "one")[0]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test", place]
    nodes = [torchrun(options, tmp_path / "two", prompts, config) for _ in range(2)]
    outputs = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert TunedModel.load(tmp_path / "two") == one_node
    everything = "".join(output + errors for output, errors in outputs)
    assert everything.count("tuned model: ") == 1
    assert sum("train: " in errors for _, errors in outputs) == 1


# --- runs that fail ---------------------------------------------------------------------------------------------------


def tune_in_two(prompts: Path, out: Path, config: Config) -> subprocess.CompletedProcess[str]:
    file = out.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "drtune.cli.main", "train", "--set=processes=2"]
    return subprocess.run(
        [*command, f"--config={file}", f"--prompts={prompts}", f"--out={out}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_even_if_it_is_killed(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    file, out = tmp_path / "config.yaml", tmp_path / "out"
    file.write_text(config_of(folder_of("sdxl"), "steps=5000", "checkpoint_every=5000", "processes=2").to_yaml())
    command = [sys.executable, "-m", "drtune.cli.main", "train", f"--config={file}", f"--prompts={prompts}"]
    with subprocess.Popen([*command, f"--out={out}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text()):
            assert run.poll() is None
            time.sleep(0.1)
        started = pids_of(str(out))
        assert len(started) == 3
        run.kill()
    wait_until_gone(*started)
    assert len(list(out.glob("checkpoints/step-*.safetensors"))) == 1


@pytest.mark.slow
def test_when_one_process_fails_all_end_and_its_traceback_is_shown_once(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text(
        "import os\n\n\n"
        "def broken(images, prompts):\n"
        "    if os.environ['RANK'] == '1' and images.shape[-1] == 16:\n"
        "        raise ArithmeticError('broken on rank 1')\n"
        "    return images.mean(dim=(1, 2, 3))\n"
    )
    config = config_of(folder_of("sdxl"), f"rewards={{'{reward}:broken': 1.0}}", "steps=2")
    run = tune_in_two(prompts, tmp_path / "out", config)
    assert run.returncode == 1, run.stderr
    assert run.stderr.count("ArithmeticError: broken on rank 1") == 1, run.stderr
    assert run.stderr.count("Traceback (most recent call last)") == 1, run.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_a_mistake_that_every_process_finds_is_told_once_in_one_line(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    run = tune_in_two(prompts, tmp_path / "out", config_of(folder_of("sdxl"), "lora.targets=[nothing]"))
    assert run.returncode == UserError.exit_code
    (line,) = run.stderr.splitlines()
    assert re.match(r"error: lora\.targets=\['nothing'\]", line)

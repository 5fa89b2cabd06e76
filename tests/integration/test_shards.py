"""Checkpoints of sharded weights: who writes what, what that takes, and that any number of processes reads them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drtune.config import Config, load_config
from drtune.contracts import TunedModel
from drtune.errors import InterruptionError, UserError
from drtune.files.storage import open_storage
from drtune.training.checkpoint import Checkpoints
from drtune.training.mirror import SHARDS, Mirror
from drtune.training.optimization import make_optimizer
from drtune.training.plan.meter import LiveBytes
from drtune.training.processes import Processes
from drtune.training.state import TrainState
from drtune.training.trainer import train
from tests.pipelines import FolderOf
from tests.together import together

CONFIG = load_config(None, ["weights=full", "ema_decay=0.5", "steps=100"])
SHAPES = {"large": (4000, 50), "uneven": (7, 3), "one row": (1, 5), "bias": (64,)}


def state_of(seed: int) -> TrainState:
    """A state with random tensors, sharded among the processes, and the same whatever their number."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, generator=generator)
        if not shape or not torch.distributed.is_initialized():
            return tensor
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)

    weights = {name: torch.nn.Parameter(draw(shape)) for name, shape in SHAPES.items()}
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    state = TrainState(weights, average, make_optimizer(weights, CONFIG.optimizer))
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    state.step(learning_rate=0.1, ema_decay=0.5)
    with torch.no_grad():
        for tensor in state.tensors().values():
            tensor.copy_(draw(tuple(tensor.shape)))
    return state


def parts_of(state: TrainState) -> dict[str, Tensor]:
    """What this process keeps of each tensor."""
    tensors = state.tensors()
    return {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


class Sent(TorchDispatchMode):
    """Bytes of all tensors that go to other processes or come from them."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in operation.namespace:
            self.nbytes += sum(leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        return operation(*args, **(kwargs or {}))


def save_counted(folder: Path) -> tuple[int, int, int]:
    """Bytes of the state that this process keeps, of what saving made at most at once, and of what it sent."""
    checkpoints, state = Checkpoints(folder, CONFIG, "1c3e", Processes()), state_of(0)
    parts = parts_of(state).values()
    with LiveBytes(parts) as live, Sent() as sent:
        checkpoints.save(20, state)
    return sum(part.nbytes for part in parts), live.peak, sent.nbytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, int]]]:
    """A checkpoint that two processes have written, and what they counted."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, together(2, save_counted, folder)


def test_each_process_writes_what_it_keeps_and_neither_makes_nor_sends_more_than_a_few_words(
    saved: tuple[Path, list[tuple[int, int, int]]],
) -> None:
    folder, counts = saved
    (checkpoint,) = folder.iterdir()
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    assert sorted(sizes) == ["shard-00001.safetensors", "shard-00002.safetensors", SHARDS]
    for rank, (kept, made, sent) in enumerate(counts):
        assert abs(sizes[f"shard-{rank + 1:05d}.safetensors"] - kept) < 0.01 * kept
        assert 0 < sent < 0.02 * kept
        assert made < 0.02 * kept
    all_kept = sum(tensor.nbytes for tensor in state_of(0).tensors().values())
    assert counts[0][0] < 0.51 * all_kept


def restored_alike(folder: Path) -> tuple[bool, int, int]:
    """Whether what is restored is what was saved, bytes of what this process keeps, and what reading made at most."""
    checkpoints, state, expected = Checkpoints(folder, CONFIG, "1c3e", Processes()), state_of(1), parts_of(state_of(0))
    with LiveBytes(parts_of(state).values()) as live:
        assert checkpoints.restore(state) == 20
    found = parts_of(state)
    alike = found.keys() == expected.keys() and all(torch.equal(found[name], part) for name, part in expected.items())
    return alike, sum(part.nbytes for part in found.values()), live.peak


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_reads_its_share_bit_for_bit(
    count: int, saved: tuple[Path, list[tuple[int, int, int]]]
) -> None:
    folder, _ = saved
    for alike, kept, made in together(count, restored_alike, folder):
        assert alike
        # New moments are half of the state; of two tensors, a quarter each, parts may be read at a time. Files are
        # mapped: one counts whole, and takes no memory.
        file = max(path.stat().st_size for path in folder.glob("*/*"))
        assert made <= 1.02 * kept + file


def refusal(folder: Path) -> str:
    """What this process is told when it restores from `folder`, or from that of its rank if it has one."""
    processes = Processes()
    mine = folder / str(processes.rank)
    with pytest.raises(UserError) as refused:
        Checkpoints(mine if mine.exists() else folder, CONFIG, "1c3e", processes).restore(state_of(1))
    return str(refused.value).replace(str(mine), str(folder))


@pytest.mark.parametrize("shard", ["shard-00001.safetensors", "shard-00002.safetensors"])
def test_a_shard_that_was_changed_is_told_by_all_processes(
    shard: str, saved: tuple[Path, list[tuple[int, int, int]]], tmp_path: Path
) -> None:
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    (checkpoint,) = tmp_path.iterdir()
    content = (checkpoint / shard).read_bytes()
    (checkpoint / shard).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    told = together(2, refusal, tmp_path)
    damage = f"damaged, its {shard} was changed or is missing; delete it to start from the beginning"
    assert set(told) == {f"checkpoint {checkpoint}: {damage}"}


def test_processes_that_do_not_find_the_same_checkpoint_all_refuse(
    saved: tuple[Path, list[tuple[int, int, int]]], tmp_path: Path
) -> None:
    shutil.copytree(saved[0], tmp_path / "0")
    (tmp_path / "1").mkdir()
    told = together(2, refusal, tmp_path)
    assert set(told) == {
        f"checkpoints {tmp_path}: not every process finds the same; put them where all nodes can read them"
    }


# --- machines that share no disk --------------------------------------------------------------------------------------


def train_on_its_own_disk(config: Config, prompts: Path, folder: Path, store: Path) -> TunedModel:
    """Train as the only process of a machine."""
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return train(config, prompts, folder / f"node-{os.environ['RANK']}", resume=True, mirror=str(store))


def stopped_on_its_own_disk(config: Config, prompts: Path, folder: Path, store: Path) -> str:
    """Train so, and be stopped; returns what the first process tells."""
    with pytest.raises((InterruptionError, SystemExit)) as stopped:
        train_on_its_own_disk(config, prompts, folder, store)
    return str(stopped.value)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def settings_of(base: Path, reward: str) -> list[str]:
    settings = [f"base_model={base}", "weights=full", "ema_decay=0.5", f"rewards={{'{reward}': 1.0}}"]
    settings += ["batch_size=2", "sampler.steps=2", "method.trained_steps=1", "method.early_stop=1"]
    settings += ["evaluation.sampler.steps=1", "checkpoint_every=1", "keep_checkpoints=1", "sample_every=100"]
    return settings


def test_the_shards_of_two_machines_meet_in_the_mirror_and_new_machines_go_on_bit_for_bit(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    settings = settings_of(folder_of("sd3"), "brightness")
    two, three = (load_config(None, [*settings, f"steps={steps}"]) for steps in (2, 3))
    store = tmp_path / "store"
    together(2, train_on_its_own_disk, two, prompts, tmp_path / "first", store)
    (checkpoint,) = (store / "checkpoints").iterdir()  # not even an empty folder is left of the first
    assert checkpoint.name.startswith("step-000002-")
    shards = ["shard-00001.safetensors", "shard-00002.safetensors"]
    assert files_below(checkpoint) == [*shards, SHARDS]
    for rank, shard in enumerate(shards):  # none was sent to the other machine for nothing
        assert files_below(tmp_path / "first" / f"node-{rank}" / "checkpoints" / checkpoint.name) == [shard, SHARDS]

    shutil.rmtree(tmp_path / "first")
    model, same = together(2, train_on_its_own_disk, three, prompts, tmp_path / "second", store)
    whole = together(2, train, three, prompts, tmp_path / "whole")[0]
    assert model == same == whole
    assert [path.name for path in (store / "checkpoints").iterdir()] == [
        path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()
    ]


def test_a_machine_whose_run_was_stopped_has_what_tells_that_its_shards_are_of_it(
    prompts: Path, folder_of: FolderOf, tmp_path: Path
) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text(
        "import signal\n\n\n"
        "def mine(images, prompts):\n"
        "    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    return images.mean(dim=(1, 2, 3))\n"
    )
    config = load_config(None, [*settings_of(folder_of("sd3"), f"{reward}:mine"), "steps=2"])
    told = together(2, stopped_on_its_own_disk, config, prompts, tmp_path, tmp_path / "store")
    assert "stopped by SIGTERM after update 1 of 2, which is saved" in told[0]
    for rank in (0, 1):
        node = tmp_path / f"node-{rank}"
        assert len(list(node.glob("checkpoints/*/shard-*"))) == 1
        Mirror(node, open_storage(str(tmp_path / "store"))).refuse_another_run()

"""Checkpoints: exact, self-verifying, few, and of one run only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from drtune.config import load_config
from drtune.errors import UserError
from drtune.files.local import sha256_bytes, sha256_file
from drtune.models.tensors import load_tensors, to_bytes
from drtune.training.checkpoint import ABOUT, Checkpoints
from drtune.training.mirror import SHARDS
from drtune.training.optimization import make_optimizer
from drtune.training.processes import Processes
from drtune.training.state import TrainState

CONFIG = load_config(None, ["steps=100", "ema_decay=0.5"])
KINDS = ("lora", "full")
HELD_OUT = ["held_out.reward=brightness", "held_out.max_drop=0.1"]


def fresh(seed: int) -> TrainState:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.nn.Parameter(torch.randn(3, 2, generator=generator)) for name in ("layer.a", "layer.b")}
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    return TrainState(weights, average, make_optimizer(weights, CONFIG.optimizer))


def update(state: TrainState, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in state.weights.values():
        weight.grad = torch.randn(3, 2, generator=generator)
    state.step(learning_rate=0.1 * step, ema_decay=0.5)


def trained(steps: int) -> TrainState:
    state = fresh(0)
    for step in range(1, steps + 1):
        update(state, step)
    return state


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def folder_of(
    tmp_path: Path, overrides: list[str] | None = None, prompts: str = "1c3e", kind: str = "lora"
) -> Checkpoints:
    settings = ["steps=100", "ema_decay=0.5", f"weights={kind}", *(overrides or [])]
    return Checkpoints(tmp_path, load_config(None, settings), prompts, Processes())


def save(checkpoints: Checkpoints, state: TrainState, step: int, protected: int | None = None) -> Path:
    checkpoints.save(step, state, protected=protected)
    return checkpoints.files()[step]


def delete(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()


def test_a_restored_state_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    whole, checkpoints = trained(3), folder_of(tmp_path, kind=kind)
    whole.held_out.update({0: 0.1, 2: 0.7})
    save(checkpoints, whole, 3)
    again = fresh(1)
    assert checkpoints.restore(again) == 3
    assert again.held_out == {0: 0.1, 2: 0.7}
    for state in (whole, again):
        update(state, 4)
    expected, found = whole.tensors(), again.tensors()
    assert expected.keys() == found.keys()
    assert len(found) == 2 + 2 + 2 * 3  # weights, average; step, mean and variance of each weight
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_state_before_the_first_update_is_kept_too(tmp_path: Path, kind: str) -> None:
    state, again, checkpoints = fresh(0), fresh(1), folder_of(tmp_path, kind=kind)
    save(checkpoints, state, 0)
    assert checkpoints.restore(again) == 0
    assert all(torch.equal(again.weights[name], weight) for name, weight in state.weights.items())


def test_without_a_checkpoint_nothing_is_restored(tmp_path: Path, kind: str) -> None:
    assert folder_of(tmp_path / "nothing", kind=kind).restore(fresh(0)) == 0


def contents(checkpoint: Path) -> dict[str, bytes]:
    paths = checkpoint.iterdir() if checkpoint.is_dir() else [checkpoint]
    return {path.name: path.read_bytes() for path in paths}


def test_equal_states_make_equal_files(tmp_path: Path, kind: str) -> None:
    first, second = (save(folder_of(tmp_path / name, kind=kind), trained(2), 2) for name in ("a", "b"))
    assert first.name == second.name
    assert contents(first) == contents(second)
    assert first.name != save(folder_of(tmp_path / "c", kind=kind), trained(3), 2).name


def test_the_newest_are_kept_and_one_that_is_protected(tmp_path: Path, kind: str) -> None:
    checkpoints = folder_of(tmp_path, ["keep_checkpoints=2"], kind=kind)
    state = fresh(0)
    for step in (10, 20, 30, 40):
        save(checkpoints, state, step, protected=10)
    assert list(checkpoints.files()) == [10, 30, 40]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in checkpoints.files().values()]


def test_a_checkpoint_takes_the_place_of_one_of_the_same_update(tmp_path: Path, kind: str) -> None:
    checkpoints = folder_of(tmp_path, kind=kind)
    save(checkpoints, trained(1), 5)
    newer = save(checkpoints, trained(2), 5)
    assert list(tmp_path.iterdir()) == [newer]


def test_what_a_write_left_that_was_cut_short_is_taken_away(tmp_path: Path, kind: str) -> None:
    leftover = tmp_path / ".step-000010-aaaaaaaaaaaa.safetensors.x1y2"
    leftover.mkdir()
    (leftover / "part").write_bytes(b"half")
    save(folder_of(tmp_path, kind=kind), fresh(0), 10)
    assert not leftover.exists()


def test_a_chosen_checkpoint_is_restored(tmp_path: Path, kind: str) -> None:
    checkpoints = folder_of(tmp_path, kind=kind)
    for step in (1, 2):
        save(checkpoints, trained(step), step)
    again = fresh(1)
    assert checkpoints.restore(again, 1) == 1
    assert torch.equal(again.weights["layer.a"], trained(1).weights["layer.a"])


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_refused_by_name_with_what_remains(tmp_path: Path, damage: str) -> None:
    checkpoints = folder_of(tmp_path)
    save(checkpoints, trained(1), 10)
    newest = save(checkpoints, trained(2), 20)
    content = newest.read_bytes()
    changed = content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]
    newest.write_bytes({"cut": content[:-1], "changed": changed, "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"{newest.name}: damaged.* delete it to go on from update 10$"):
        checkpoints.restore(fresh(0))
    newest.unlink()
    assert checkpoints.restore(fresh(0)) == 10


SHARD = "shard-00001.safetensors"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no tensors", r": damaged or not a safetensors file"),
        (to_bytes({"weights.a": torch.ones(1)}, {"else": "{}"}), r": does not say what it is of; delete it$"),
        (to_bytes({"weights.a": torch.ones(1)}, {ABOUT: "{"}), r": does not say what it is of; delete it$"),
    ],
)
def test_what_has_a_right_digest_and_is_no_checkpoint_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / f"step-000001-{sha256_bytes(content)[:12]}.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name}{said}"):
        folder_of(tmp_path).restore(fresh(0))


@pytest.mark.parametrize("file", [SHARDS, SHARD])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_among_the_shards_is_refused_by_name(tmp_path: Path, damage: str, file: str) -> None:
    checkpoints = folder_of(tmp_path, kind="full")
    save(checkpoints, trained(1), 10)
    newest = save(checkpoints, trained(2), 20)
    content = (newest / file).read_bytes()
    changed = content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]
    (newest / file).write_bytes({"cut": content[:-1], "changed": changed, "empty": b""}[damage])
    wanted = rf"{newest.name}: damaged, its {file} was changed or is missing; delete it to go on from update 10$"
    with pytest.raises(UserError, match=wanted):
        checkpoints.restore(fresh(0))
    delete(newest)
    assert checkpoints.restore(fresh(0)) == 10


def test_a_missing_shard_is_refused_and_without_its_list_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path, kind="full")
    save(checkpoints, trained(1), 10)
    newest = save(checkpoints, trained(2), 20)
    (newest / SHARD).unlink()
    with pytest.raises(UserError, match=rf"{newest.name}: damaged, its {SHARD} was changed or is missing"):
        checkpoints.restore(fresh(0))
    (newest / SHARDS).unlink()
    assert checkpoints.restore(fresh(0)) == 10
    save(checkpoints, trained(3), 30)
    assert not newest.exists()


def test_shards_are_listed_with_their_digests_and_the_name_holds_that_of_the_list(tmp_path: Path) -> None:
    path = save(folder_of(tmp_path, kind="full"), trained(2), 20)
    assert path.name == f"step-000020-{sha256_file(path / SHARDS)[:12]}"
    about = json.loads((path / SHARDS).read_text())
    assert about["sha256"] == {SHARD: sha256_file(path / SHARD)}
    assert (about["step"], about["prompts_sha256"], about["config"]["weights"]) == (20, "1c3e", "full")
    assert sorted(file.name for file in path.iterdir()) == [SHARD, SHARDS]
    tensors, _ = load_tensors(path / SHARD)
    expected = trained(2).tensors()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_a_file_that_is_not_listed_is_not_read(tmp_path: Path) -> None:
    checkpoints, again = folder_of(tmp_path, kind="full"), fresh(1)
    path = save(checkpoints, trained(1), 1)
    other = save(folder_of(tmp_path / "other", kind="full"), trained(2), 1)
    shutil.copyfile(other / SHARD, path / "another.safetensors")
    assert checkpoints.restore(again) == 1
    assert torch.equal(again.weights["layer.a"], trained(1).weights["layer.a"])


def test_a_write_that_fails_is_told_as_what_it_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a file").write_text("")
    checkpoints = folder_of(tmp_path / "a file" / "checkpoints", kind=kind)
    with pytest.raises(NotADirectoryError):
        checkpoints.save(20, trained(2))
    assert not checkpoints.files()


def test_going_back_to_before_the_first_update_forgets_the_moments(tmp_path: Path, kind: str) -> None:
    checkpoints, state = folder_of(tmp_path, kind=kind), fresh(0)
    save(checkpoints, state, 0)
    update(state, 1)
    assert checkpoints.restore(state, 0) == 0
    assert not state.optimizer.state
    update(state, 1)
    expected = trained(1).tensors()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.tensors().items())


def test_all_weights_in_one_file_as_they_once_were_saved_are_read_too(tmp_path: Path) -> None:
    old = save(folder_of(tmp_path), trained(2), 20)
    tensors, about = load_tensors(old)
    content = to_bytes(tensors, {ABOUT: about[ABOUT].replace('"weights": "lora"', '"weights": "full"')})
    delete(old)
    (tmp_path / f"step-000020-{sha256_bytes(content)[:12]}.safetensors").write_bytes(content)
    again = fresh(1)
    assert folder_of(tmp_path, kind="full").restore(again) == 20
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in trained(2).tensors().items())


def test_the_only_checkpoint_damaged_means_starting_again(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path)
    save(checkpoints, trained(1), 10).write_bytes(b"")
    with pytest.raises(UserError, match=r"delete it to start from the beginning$"):
        checkpoints.restore(fresh(0))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["steps=200"]),
        ([], ["processes=2", "checkpoint_every=1", "keep_checkpoints=9", "sample_every=3", "wandb_project=x"]),
        ([], ["evaluation.sampler.steps=3"]),
        ([], ["compute.keep_graphs=2", "compute.gradient_checkpointing=true"]),
    ],
)
def test_settings_that_change_no_update_may_change(tmp_path: Path, before: list[str], after: list[str]) -> None:
    save(folder_of(tmp_path, before), fresh(0), 10)
    assert folder_of(tmp_path, after).restore(fresh(0)) == 10


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ([], ["optimizer.learning_rate=0.5"], [r"optimizer\.learning_rate \(0\.5 here, 0\.0002 there\)"]),
        ([], ["batch_size=4", "lora.rank=2"], [r"batch_size \(4 here, 8 there\)", r"lora\.rank \(2 here, 8 there\)"]),
        ([], ["compute.micro_batch_size=2"], [r"compute\.micro_batch_size \(2 here, None there\)"]),
        (["optimizer.schedule=cosine"], ["optimizer.schedule=cosine", "steps=9"], [r"steps \(9 here, 100 there\)"]),
        (HELD_OUT, [*HELD_OUT, "sample_every=3"], [r"sample_every \(3 here, 20 there\)"]),
        (HELD_OUT, [*HELD_OUT, "evaluation.seed=3"], [r"evaluation\.seed \(3 here, 0 there\)"]),
        (HELD_OUT, [*HELD_OUT[:1], "held_out.max_drop=1"], [r"held_out\.max_drop \(1\.0 here, 0\.1 there\)"]),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_the_keys_that_differ(
    tmp_path: Path, before: list[str], after: list[str], keys: list[str]
) -> None:
    save(folder_of(tmp_path, before), fresh(0), 10)
    state = fresh(1)
    weights = {name: weight.detach().clone() for name, weight in state.weights.items()}
    with pytest.raises(UserError, match=f"made with another configuration: {', '.join(keys)}; give the same values"):
        folder_of(tmp_path, after).restore(state)
    assert all(torch.equal(state.weights[name], weight) for name, weight in weights.items())


def test_a_checkpoint_of_other_prompts_is_refused(tmp_path: Path, kind: str) -> None:
    save(folder_of(tmp_path, kind=kind), fresh(0), 10)
    with pytest.raises(UserError, match="made with other prompts"):
        folder_of(tmp_path, prompts="2d4f", kind=kind).restore(fresh(0))


def test_the_average_moves_towards_the_weights_by_what_the_decay_leaves() -> None:
    state = fresh(0)
    w0 = state.weights["layer.a"].detach().clone()
    update(state, 1)
    w1 = state.weights["layer.a"].detach()
    assert (w1 - w0).abs().min() > 0.09  # Adam's first step is the learning rate, whatever the gradient
    torch.testing.assert_close(state.average["layer.a"], 0.5 * w0 + 0.5 * w1)
    assert all(weight.grad is None for weight in state.weights.values())


def test_within_averaged_the_weights_are_their_running_mean_and_afterwards_the_same_bits_as_before() -> None:
    state = trained(3)
    weights = {name: weight.detach().clone() for name, weight in state.weights.items()}
    average = {name: tensor.clone() for name, tensor in state.average.items()}
    with state.averaged():
        assert all(torch.equal(weight, average[name]) for name, weight in state.weights.items())
    assert all(torch.equal(weight, weights[name]) for name, weight in state.weights.items())
    assert all(torch.equal(tensor, average[name]) for name, tensor in state.average.items())

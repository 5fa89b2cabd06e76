"""What an update does to the weights, and which updates are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drtune.config import load_config
from drtune.contracts import MANIFEST
from drtune.errors import UserError
from drtune.training.history import read_metrics
from drtune.training.optimization import DivergenceError
from drtune.training.trainer import train
from tests.trainings import SHORT, trainer_of


def test_a_training_that_diverges_keeps_its_last_good_state(prompts: Path, tmp_path: Path) -> None:
    trainer = trainer_of([*SHORT, "steps=9", "checkpoint_every=9", "optimizer.learning_rate=1e12"], prompts, tmp_path)
    with pytest.raises(DivergenceError, match=r"update 2: .*nan.* after update 1: .*learning_rate than 1e\+12"):
        trainer.run()
    assert list(trainer.checkpoints.files()) == [1]
    assert trainer.checkpoints.restore(trainer.state) == 1
    assert all(weight.isfinite().all() for weight in trainer.state.weights.values())
    assert len(read_metrics(tmp_path)) == 1


def test_weights_or_pictures_that_are_not_finite_are_never_saved(prompts: Path, tmp_path: Path) -> None:
    """Clamped and rounded, such pictures are black, and very symmetric."""
    for rate, refused in ("1e300", "update 1: the weights have the norm"), ("1e12", "pixels are infinite"):
        out = tmp_path / rate
        trainer = trainer_of([*SHORT, "steps=1", f"optimizer.learning_rate={rate}"], prompts, out)
        with pytest.raises(UserError, match=refused):
            trainer.run()
        assert not list(out.rglob("*.safetensors"))
        assert not (out / MANIFEST).exists()


def test_an_exploding_gradient_stops_before_the_weights_move(prompts: Path, tmp_path: Path) -> None:
    trainer = trainer_of([*SHORT, "optimizer.refused_grad_norm=1e-9"], prompts, tmp_path)
    before = {name: weight.detach().clone() for name, weight in trainer.state.weights.items()}
    with pytest.raises(DivergenceError, match=r"update 1: .*optimizer\.refused_grad_norm=1e-09"):
        trainer.update(1)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.state.weights.items())


def test_the_running_mean_of_the_weights_is_what_is_saved(prompts: Path, tmp_path: Path) -> None:
    trainer = trainer_of([*SHORT, "steps=2", "ema_decay=0.75"], prompts, tmp_path)
    states = [{name: weight.detach().clone() for name, weight in trainer.state.weights.items()}]
    for step in (1, 2):
        trainer.update(step)
        states.append({name: weight.detach().clone() for name, weight in trainer.state.weights.items()})
    for name, average in trainer.state.average.items():
        w0, w1, w2 = (state[name] for state in states)
        torch.testing.assert_close(average, (0.2 * w0 + 1.8 * w1 + 9 * w2) / 11)  # decays 1/10 and 2/11
    saved = train(load_config(None, [*SHORT, "steps=2", "ema_decay=0.75"]), prompts, tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / saved.weights_file)
    total = sum(float(weight.double().sum()) for weight in weights.values())
    assert total == pytest.approx(sum(float(average.double().sum()) for average in trainer.state.average.values()))


def test_with_moved_weights_an_update_is_of_the_gradient_there(prompts: Path, tmp_path: Path) -> None:
    sharp, plain, by_hand = (
        trainer_of([*SHORT, *rho], prompts, tmp_path) for rho in (["method.weight_rho=0.05"], [], [])
    )
    first, second = sharp.update(1), plain.update(1)
    assert first.rewards == second.rewards

    weights, plan = list(by_hand.state.weights.values()), by_hand.plan(1)
    before = [weight.detach().clone() for weight in weights]
    by_hand._take_gradient(1, plan)
    slopes = [weight.grad.clone() for weight in weights if weight.grad is not None]
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    for weight, slope in zip(weights, slopes, strict=True):
        weight.data += 0.05 * slope / length
        weight.grad = None
    by_hand._take_gradient(1, plan)
    for weight, old in zip(weights, before, strict=True):
        weight.data = old
    torch.nn.utils.clip_grad_norm_(weights, by_hand.config.optimizer.max_grad_norm)
    by_hand.state.step(first.learning_rate, 0.0)
    for name, weight in by_hand.state.weights.items():
        torch.testing.assert_close(sharp.state.weights[name], weight)
    assert any(not torch.allclose(plain.state.weights[name], weight) for name, weight in sharp.state.weights.items())


def test_every_update_is_made_in_the_size_whose_turn_it_is(prompts: Path, tmp_path: Path) -> None:
    wide = ["height=16", "width=40"]
    turns, square, alone = (
        trainer_of([*SHORT, *sizes], prompts, tmp_path) for sizes in (["other_sizes=[40x16]"], [], wide)
    )
    assert turns.update(1).rewards == square.update(1).rewards
    for name, weight in square.state.weights.items():
        assert torch.equal(turns.state.weights[name], weight)
        alone.state.weights[name].data.copy_(weight)
    alone.state.optimizer.load_state_dict(square.state.optimizer.state_dict())
    assert turns.update(2).rewards == alone.update(2).rewards != square.update(2).rewards
    assert all(torch.equal(turns.state.weights[name], weight) for name, weight in alone.state.weights.items())


def test_only_the_adapter_trains_and_every_part_of_it_does(prompts: Path, tmp_path: Path) -> None:
    trainer = trainer_of(SHORT, prompts, tmp_path)
    network = trainer.base.network
    frozen = {name: weight.clone() for name, weight in network.named_parameters() if "lora" not in name}
    before = {name: weight.detach().clone() for name, weight in trainer.state.weights.items()}
    for step in (1, 2):
        trainer.update(step)
    assert all("lora" in name for name in before)
    assert all(torch.equal(weight, frozen[name]) for name, weight in network.named_parameters() if name in frozen)
    assert all(not torch.equal(weight, before[name]) for name, weight in trainer.state.weights.items())


def test_settings_that_may_change_on_resume_change_no_bit(prompts: Path, tmp_path: Path) -> None:
    """Unlike a micro-batch, which changes the order of a sum."""
    ends = []
    for compute in ([], ["compute.keep_graphs=1"], ["compute.gradient_checkpointing=true"]):
        trainer = trainer_of([*SHORT, *compute], prompts, tmp_path)
        for step in (1, 2):
            trainer.update(step)
        ends.append(trainer.state.weights)
    assert all(torch.equal(end[name], weight) for end in ends[1:] for name, weight in ends[0].items())

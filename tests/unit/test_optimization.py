"""The optimizer: learning rates by number, and the updates that are refused."""

from __future__ import annotations

import math

import pytest
import torch

from drtune.config import OptimizerConfig
from drtune.errors import UserError
from drtune.training.optimization import (
    DivergenceError,
    check_finite,
    check_weights,
    learning_rate,
    mean_decay,
    moved_against,
)


def rates(config: OptimizerConfig, num_steps: int) -> list[float]:
    return [learning_rate(config, step, num_steps) for step in range(1, num_steps + 1)]


@pytest.mark.parametrize(
    ("updates", "left"), [(1, 0.1), (2, 0.1 * 2 / 11), (4, 0.1 * 2 / 11 * 3 / 12 * 4 / 13), (300, 0.0)]
)
def test_little_of_the_start_is_left_in_the_running_mean_of_a_short_run(updates: int, left: float) -> None:
    shares = [mean_decay(0.995, step) for step in range(1, updates + 1)]
    assert math.prod(shares) == pytest.approx(left, abs=1e-12)  # 0.22 would be left after 300 updates of 0.995


def test_the_running_mean_ends_with_the_decay_that_was_asked_for() -> None:
    assert [mean_decay(0.995, step) for step in (1790, 1791, 1792)] == [1790 / 1799, 0.995, 0.995]
    assert [mean_decay(0.0, step) for step in (1, 2)] == [0.0, 0.0]


def test_the_learning_rate_is_constant_by_default() -> None:
    assert rates(OptimizerConfig(learning_rate=1e-3), 3) == [1e-3, 1e-3, 1e-3]


def test_warm_up_rises_in_equal_steps_to_the_full_rate() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert rates(config, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_full_rate_by_half_a_period() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="cosine")
    assert rates(config, 4) == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])


def test_cosine_begins_after_the_warm_up() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=2)
    assert rates(config, 4) == pytest.approx([0.5, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warm_up_as_long_as_the_run_never_leaves_it(schedule: str) -> None:
    config = OptimizerConfig.model_validate({"learning_rate": 1.0, "schedule": schedule, "warmup_steps": 8})
    assert rates(config, 2) == [0.125, 0.25]


def test_a_finite_update_passes_up_to_the_refused_norm() -> None:
    check_finite(1, reward=-3.0, grad_norm=1e6, config=OptimizerConfig())


@pytest.mark.parametrize(
    ("reward", "grad_norm"),
    [(math.nan, 1.0), (math.inf, 1.0), (0.5, math.nan), (0.5, math.inf), (0.5, 1.1e6)],
)
def test_an_update_that_would_spoil_the_weights_is_refused_with_what_to_try(reward: float, grad_norm: float) -> None:
    with pytest.raises(DivergenceError, match=r"^update 7: .*after update 6: .*optimizer\.learning_rate") as refusal:
        check_finite(7, reward, grad_norm, OptimizerConfig())
    assert "\n" not in str(refusal.value)


def test_the_refused_norm_is_a_setting() -> None:
    with pytest.raises(DivergenceError, match=r"gradient norm 11 \(optimizer\.refused_grad_norm=10\)"):
        check_finite(1, 0.5, 11.0, OptimizerConfig(refused_grad_norm=10))


def test_weights_that_the_optimizer_has_spoilt_are_refused() -> None:
    check_weights(3, [torch.ones(4), torch.full((2, 2), 1e9)], OptimizerConfig())
    for number in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"^update 3: .*learning_rate than 1e\+30"):
            check_weights(3, [torch.ones(4), torch.tensor([0.0, number])], OptimizerConfig(learning_rate=1e30))


@pytest.mark.parametrize(("gradients", "moved"), [([3.0, 4.0], [1.3, 2.4]), ([0.0, 0.0], [1.0, 2.0])])
def test_weights_are_moved_along_their_gradient_and_come_back_to_the_bit(
    gradients: list[float], moved: list[float]
) -> None:
    weights = [torch.tensor([start], requires_grad=True) for start in (1.0, 2.0, 7.0)]
    before = [weight.detach().clone() for weight in weights]
    for weight, gradient in zip(weights, gradients, strict=False):  # the last one has none
        weight.grad = torch.tensor([gradient])
    with moved_against(weights, 0.5):
        torch.testing.assert_close(torch.cat(weights).detach(), torch.tensor([*moved, 7.0]))
        assert [weight.grad for weight in weights] == [None] * 3
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))

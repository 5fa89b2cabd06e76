"""The sweep's memory is that of one network call, and what it does with graphs; its gradients: test_supervision.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from drtune.config import ComputeSection, MethodConfig, TuningSamplerConfig
from drtune.methods.plans import Plan
from drtune.methods.supervision import Task, supervise
from drtune.methods.sweep import reward_gradient, roll_out, sweep_back
from drtune.training.plan.meter import SavedBytes
from tests.tiny import UNGUIDED, ddim, denoiser_of, tunable_base

NOISE = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))


def rewards_of(clean_BCHW: Tensor, _rows: slice) -> Tensor:
    return -clean_BCHW.square().mean((1, 2, 3))


def peak_of(network: torch.nn.Module, run: Callable[[], object]) -> int:
    """Most bytes that autograd keeps for backward at once while `run` runs, weights aside; nothing is left behind."""
    saved = SavedBytes(network.parameters())
    with saved:
        run()
    assert saved.now == 0
    return saved.peak


def saved_bytes(
    num_steps: int,
    trained: tuple[int, ...],
    alpha: float = 0.0,
    settings: TuningSamplerConfig = UNGUIDED,
    *,
    keep_graphs: int = 0,
    replay_batch: int = 1,
) -> int:
    """Most bytes that autograd keeps at once in an update that runs to the end."""
    base, sampler = tunable_base(torch.float32)[0], ddim(num_steps)
    denoiser = denoiser_of(base, settings)
    plan = Plan(stop=num_steps - 1, trained=trained, alpha=alpha)

    def update() -> None:
        rollout = roll_out(denoiser, sampler, NOISE, plan, keep_graphs=keep_graphs)
        _, gradient = reward_gradient(rewards_of, rollout.clean_BCHW)
        sweep_back(denoiser, sampler, rollout, gradient, plan, replay_batch=replay_batch)

    return peak_of(base.network, update)


@pytest.fixture(scope="module")
def one_graph() -> int:
    return saved_bytes(8, (7,))


def test_memory_does_not_grow_with_sampler_steps_or_trained_steps(one_graph: int) -> None:
    assert one_graph > 100_000
    assert saved_bytes(8, (1, 3, 5, 7)) == one_graph
    assert saved_bytes(24, (0, 5, 20)) == one_graph


def test_full_back_propagation_takes_no_more_than_one_graph_and_its_input(one_graph: int) -> None:
    every_step = saved_bytes(8, tuple(range(8)), alpha=1.0)
    assert one_graph <= every_step <= 1.1 * one_graph
    assert saved_bytes(16, tuple(range(16)), alpha=1.0) == every_step


def test_memory_grows_by_one_graph_for_each_that_is_kept(one_graph: int) -> None:
    for kept in (1, 2, 4):
        assert saved_bytes(8, (1, 3, 5, 7), keep_graphs=kept) == pytest.approx(kept * one_graph, rel=0.02)
    assert saved_bytes(8, (1, 3, 5, 7), keep_graphs=9) == saved_bytes(8, (1, 3, 5, 7), keep_graphs=4)


def test_memory_grows_with_the_steps_that_share_a_forward(one_graph: int) -> None:
    for together in (2, 3, 4):
        size = saved_bytes(8, (1, 3, 5, 7), replay_batch=together)
        assert size == pytest.approx(together * one_graph, rel=0.02)


def test_gradient_through_both_branches_of_guidance_takes_twice_the_graph_of_one(one_graph: int) -> None:
    both = TuningSamplerConfig(guidance_scale=3.0)
    conditional = TuningSamplerConfig(guidance_scale=3.0, guidance_gradient="conditional")
    assert saved_bytes(8, (3, 7), settings=both) == pytest.approx(2 * one_graph, rel=0.02)
    assert saved_bytes(8, (3, 7), settings=conditional) == pytest.approx(one_graph, rel=0.02)


# ----------------------------------------------------------------------------------------------------------------------


def test_the_roll_out_has_no_graph_but_the_kept_ones() -> None:
    denoiser = denoiser_of(tunable_base(torch.float32)[0])
    rollout = roll_out(denoiser, ddim(6), NOISE, Plan(stop=4, trained=(0, 2, 4), alpha=0.5), keep_graphs=1)
    assert not rollout.clean_BCHW.requires_grad
    assert [index for index, seen in rollout.inputs.items() if seen.requires_grad] == [2, 4]
    assert list(rollout.graphs) == [4]
    assert rollout.graphs[4].requires_grad


def test_the_sweep_frees_the_graphs_that_it_used() -> None:
    denoiser = denoiser_of(tunable_base(torch.float32)[0])
    plan = Plan(stop=5, trained=(0, 2, 4), alpha=0.0)
    rollout = roll_out(denoiser, ddim(6), NOISE, plan, keep_graphs=2)
    sweep_back(denoiser, ddim(6), rollout, torch.ones_like(NOISE), plan)
    assert rollout.graphs == {}


def test_fresh_noise_is_asked_for_by_step_and_not_before_the_jump() -> None:
    asked: list[tuple[object, ...]] = []

    def draw_noise(*key: object) -> Tensor:
        asked.append(key)
        return torch.zeros_like(NOISE)

    denoiser = denoiser_of(tunable_base(torch.float32)[0])
    roll_out(denoiser, ddim(6, eta=1.0), NOISE, Plan(stop=3, trained=(3,), alpha=0.0), draw_noise=draw_noise)
    assert asked == [("fresh", 0), ("fresh", 1), ("fresh", 2)]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5, 9])
def test_pictures_are_scored_in_parts_with_the_gradient_of_the_whole(batch_size: int | None) -> None:
    clean = torch.arange(10, dtype=torch.float64).view(5, 1, 1, 2)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    sizes: list[int] = []

    def weighted(part: Tensor, rows: slice) -> Tensor:
        sizes.append(len(part))
        return weights[rows] * part.square().sum((1, 2, 3))

    rewards, gradient = reward_gradient(weighted, clean, batch_size)
    torch.testing.assert_close(rewards, weights * clean.square().sum((1, 2, 3)))
    torch.testing.assert_close(gradient, -2 * weights.view(5, 1, 1, 1) * clean / 5)
    assert max(sizes) <= (batch_size or 5)
    assert sum(sizes) == 5


def test_pictures_that_are_rolled_out_together_take_the_graph_of_a_micro_batch(one_graph: int) -> None:
    def update(compute: ComputeSection) -> int:
        base = tunable_base(torch.float32)[0]
        task = Task(denoiser_of(base), ddim(8), rewards_of, lambda *_: NOISE, compute)
        plan = Plan(stop=7, trained=(1, 7), alpha=1.0)
        return peak_of(base.network, lambda: supervise(task, MethodConfig(name="full"), plan))

    assert update(ComputeSection()) == pytest.approx(one_graph, rel=0.1)
    assert update(ComputeSection(micro_batch_size=1)) == pytest.approx(one_graph / 2, rel=0.1)

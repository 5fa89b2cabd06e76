"""Every method's gradient is that of one big graph, however it is computed; test_what_methods_do.py: what each does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from drtune.config import ComputeSection, MethodConfig, TuningSamplerConfig
from drtune.methods.draws import generator_of
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.loss_scale import scaled, unscaled
from drtune.methods.penalty import BasePenalty
from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.models.adapter import without_adapter
from drtune.models.sampler import Sampler, read_sampler
from drtune.models.sdxl import StableDiffusionXL
from tests.oracle import loss_of
from tests.tiny import UNGUIDED, conditions_of, ddim, denoiser_of, tunable_base
from tools.miniature.networks import make_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler of diffusers

T, BATCH = 5, 2
METHODS = {
    "drtune": MethodConfig(name="drtune", trained_steps=3, early_stop=3),
    "refl": MethodConfig(name="refl", early_stop=3),
    "draft_k": MethodConfig(name="draft_k", trained_steps=3),
    "draft_lv": MethodConfig(name="draft_lv", renoised=2),
    "alignprop": MethodConfig(name="alignprop", trained_steps=4),
    "full": MethodConfig(name="full"),
    "leapalign": MethodConfig(name="leapalign"),
    "flowbp_sparse": MethodConfig(name="flowbp_sparse", trained_steps=3),
    "flowbp_bridge": MethodConfig(name="flowbp_bridge", trained_steps=4),
    "flowbp_lagrange": MethodConfig(name="flowbp_lagrange"),
    "direct_align": MethodConfig(name="direct_align", early_stop=4, recoveries=2, discount=0.7),
    "srpo": MethodConfig(name="srpo", early_stop=3, recoveries=2, discount=0.7),
}
GUIDED = TuningSamplerConfig(guidance_scale=3.0)


@lru_cache(maxsize=1)
def tuned() -> tuple[StableDiffusionXL, list[Tensor]]:
    return tunable_base(torch.float64)


def noise(*key: int | str) -> Tensor:
    return torch.randn(BATCH, 4, 4, 4, generator=generator_of("test", *key), dtype=torch.float64)


def rewards_of(clean_BCHW: Tensor, rows: slice, *, opposite: bool = False, surplus: float = 0.0) -> Tensor:
    """Something curved that sees every latent, and which picture it is, less something else."""
    weights = torch.linspace(-1, 1, clean_BCHW[0].numel(), dtype=clean_BCHW.dtype).view_as(clean_BCHW[0])
    sizes = torch.tensor([1.0, 0.5], dtype=clean_BCHW.dtype)[rows]
    praised = sizes * torch.tanh(clean_BCHW * weights).sum((1, 2, 3))
    blamed = 0.05 * clean_BCHW.square().sum((1, 2, 3))
    sought, avoided = (blamed, praised) if opposite else (praised, blamed)
    return (1 + surplus) * sought - avoided


def deterministic() -> Sampler:
    return ddim(T)


def ancestral() -> Sampler:
    return ddim(T, eta=0.8)


def euler() -> Sampler:
    scheduler = EulerDiscreteScheduler.from_config(make_scheduler().config, timestep_spacing="linspace")
    scheduler.set_timesteps(T)
    return read_sampler(scheduler)


def flow() -> Sampler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(T)
    return read_sampler(scheduler)


def task_of(
    settings: TuningSamplerConfig = UNGUIDED,
    sampler: Sampler | None = None,
    penalty: float = 0.0,
    **compute: Any,
) -> Task:
    denoiser = denoiser_of(tuned()[0], settings)
    return Task(
        denoiser,
        sampler or deterministic(),
        rewards_of,
        noise,
        ComputeSection(**compute),
        BasePenalty(denoiser, penalty) if penalty else None,
    )


def gradient_left_by(run: Callable[[], object]) -> Tensor:
    """All gradients that `run` leaves on the weights, end to end."""
    weights = tuned()[1]
    for weight in weights:
        weight.grad = None
    run()
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


def error(ours: Tensor, theirs: Tensor) -> float:
    assert theirs.norm() > 1e-4
    return float((ours - theirs).norm() / theirs.norm())


def assert_equals_autograd(
    task: Task, method: MethodConfig, plan: Plan | None = None, *, penalty: float = 0.0, seed: int = 0
) -> None:
    def price(output: Tensor, seen: Tensor, timesteps: Tensor) -> Tensor:
        if not penalty:
            return output.new_zeros(())
        with torch.no_grad(), without_adapter(tuned()[0]):
            base = task.denoiser(seen, timesteps)
        return penalty * (output - base).square().mean()

    plan = plan or draw_plan(method, T, torch.Generator().manual_seed(seed))
    ours = gradient_left_by(lambda: supervise(task, method, plan))
    theirs = gradient_left_by(lambda: loss_of(task, method, plan, price).backward())
    assert error(ours, theirs) <= 1e-9


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_equals_autograd(name: str, seed: int) -> None:
    assert_equals_autograd(task_of(), METHODS[name], seed=seed)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_equals_autograd_where_the_latents_are_moved_against_the_reward(name: str) -> None:
    method = METHODS[name].model_copy(update={"rho": 0.3})
    assert_equals_autograd(task_of(), method)
    assert_equals_autograd(task_of(micro_batch_size=1, decode_batch_size=1), method, seed=1)


def noting(scored: list[Tensor]) -> Task:
    """A task that keeps the latents that are scored, and sees to it that of the first ones alone a note is taken."""
    recorded: list[bool] = [True]

    @contextmanager
    def unrecorded() -> Iterator[None]:
        recorded.append(False)
        yield
        recorded.append(True)

    def noted(clean_BCHW: Tensor, rows: slice) -> Tensor:
        scored.append(clean_BCHW.detach())
        assert recorded[-1] == (len(scored) == 1)
        return rewards_of(clean_BCHW, rows)

    return replace(task_of(), rewards_of=noted, unrecorded=unrecorded)


def test_of_a_picture_that_is_re_noised_the_first_alone_is_told() -> None:
    scored: list[Tensor] = []
    method = METHODS["draft_lv"]
    rewards = supervise(noting(scored), method, draw_plan(method, T, torch.Generator()))
    assert len(scored) == 1 + method.renoised
    assert torch.equal(rewards, rewards_of(scored[0], slice(0, BATCH)))


def test_the_gradient_is_taken_rho_away_and_what_is_told_is_the_reward_of_the_picture() -> None:
    scored: list[Tensor] = []
    task = noting(scored)
    rewards = supervise(task, METHODS["refl"].model_copy(update={"rho": 0.25}), Plan(T - 1, (T - 1,), 0.0))
    there, moved = scored
    assert torch.equal(rewards, rewards_of(there, slice(0, BATCH)))
    torch.testing.assert_close((moved - there).square().mean((1, 2, 3)).sqrt(), torch.full((BATCH,), 0.25).double())
    assert bool((rewards_of(moved, slice(0, BATCH)) < rewards).all())


@pytest.mark.parametrize("sampler", [deterministic, euler, flow])
@pytest.mark.parametrize("name", ["direct_align", "srpo"])
def test_the_gradient_from_real_pictures_equals_autograd(name: str, sampler: Callable[[], Sampler]) -> None:
    task = replace(task_of(GUIDED, sampler(), penalty=5.0, micro_batch_size=1), real_BCHW=noise("real"))
    assert_equals_autograd(task, METHODS[name], penalty=5.0)


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (3, 4)])
def test_the_gradient_of_two_leaps_equals_autograd(pair: tuple[int, int]) -> None:
    plan = Plan(T - 1, pair, alpha=0.3, leaps=((pair[0],), (pair[1],)))
    assert_equals_autograd(task_of(sampler=ancestral()), METHODS["leapalign"], plan)


@pytest.mark.parametrize(
    "settings",
    [GUIDED, TuningSamplerConfig(guidance_scale=3.0, guidance_rescale=0.7, guidance_gradient="conditional")],
    ids=["guided", "conditional-rescaled"],
)
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_equals_autograd_with_guidance(name: str, settings: TuningSamplerConfig) -> None:
    assert_equals_autograd(task_of(settings), METHODS[name])


@pytest.mark.parametrize("sampler", [ancestral, euler, flow])
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_equals_autograd_with_every_sampler(name: str, sampler: Callable[[], Sampler]) -> None:
    assert_equals_autograd(task_of(sampler=sampler()), METHODS[name])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["drtune", "draft_k", "alignprop", "full", "leapalign"])
def test_any_share_of_the_gradient_may_pass_through_the_input(name: str, alpha: float) -> None:
    method = METHODS[name].model_copy(update={"alpha": alpha})
    assert_equals_autograd(task_of(sampler=euler()), method, seed=1)


@pytest.mark.parametrize("compute", [{"keep_graphs": 1}, {"replay_batch": 2}], ids=["kept", "replayed"])
@pytest.mark.parametrize("name", METHODS)
def test_the_penalty_is_the_gradient_of_the_squared_distance_from_the_base(name: str, compute: dict[str, int]) -> None:
    assert_equals_autograd(task_of(penalty=5.0, **compute), METHODS[name], penalty=5.0)


def test_single_precision_is_close() -> None:
    base, weights = tunable_base(torch.float32)
    method = MethodConfig(trained_steps=4, early_stop=3)
    plan = draw_plan(method, 12, torch.Generator().manual_seed(1))
    double = task_of(GUIDED, ddim(12))
    theirs = gradient_left_by(lambda: supervise(double, method, plan))
    supervise(replace(double, denoiser=denoiser_of(base, GUIDED), draw_noise=lambda: noise().float()), method, plan)
    ours = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    assert error(ours.double(), theirs) <= 1e-5


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_what_trades_time_for_memory_leaves_the_gradient_alone(name: str) -> None:
    plan = draw_plan(METHODS[name], T, torch.Generator().manual_seed(0))
    trained = len(plan.trained)
    plain = gradient_left_by(lambda: supervise(task_of(penalty=5.0), METHODS[name], plan))
    for compute in (
        *({"keep_graphs": count} for count in range(1, trained + 1)),
        *({"replay_batch": count} for count in range(2, trained + 2)),
        {"decode_batch_size": 1},
        {"micro_batch_size": 1},  # of pictures that are rolled out together
        {"keep_graphs": 1, "replay_batch": 2, "decode_batch_size": 1},
    ):
        task = task_of(penalty=5.0, **compute)
        traded = gradient_left_by(lambda task=task: supervise(task, METHODS[name], plan))
        assert error(traded, plain) <= 1e-9, compute


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_scale_leaves_the_gradient_alone_and_what_was_there_before(name: str) -> None:
    plan = draw_plan(METHODS[name], T, torch.Generator().manual_seed(0))
    task = task_of(penalty=5.0)
    in_half = replace(task, loss_scale=partial(scaled, weights=tuned()[1], mean=lambda value: value))

    def twice() -> None:
        supervise(in_half, METHODS[name], plan)
        supervise(in_half, METHODS[name], plan)

    plain = gradient_left_by(lambda: supervise(task, METHODS[name], plan))
    assert error(gradient_left_by(twice), 2 * plain) <= 1e-9


@pytest.mark.parametrize("worth", [0.0, 1e-14], ids=["beyond-the-hinge", "saturated"])
@pytest.mark.parametrize("name", ["drtune", "full"])
def test_in_fp16_the_penalty_is_there_whatever_the_reward_gives(name: str, worth: float) -> None:
    """A scale taken from the reward alone lost a penalty of 1e-5 beside nothing, and made it infinite beside 1e-14."""

    def penalised(precision: torch.dtype) -> Tensor:
        base, weights = tunable_base(precision)
        for weight in weights:
            weight.data = weight.data.float()  # what trains is kept in fp32
        denoiser = GuidedDenoiser(base, conditions_of(base, 2), conditions_of(base, 1), UNGUIDED, arithmetic=precision)
        task = Task(
            denoiser,
            deterministic(),
            rewards_of=lambda clean, rows: worth * rewards_of(clean, rows),
            draw_noise=lambda *key: noise(*key).float(),
            compute=ComputeSection(),
            penalty=BasePenalty(denoiser, 1e-5),
            loss_scale=partial(scaled, weights=weights, mean=lambda value: value)
            if precision.itemsize == 2
            else unscaled,
        )
        supervise(task, METHODS[name], draw_plan(METHODS[name], T, torch.Generator().manual_seed(0)))
        return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])

    wanted = penalised(torch.float32)
    assert wanted.norm() > 1e-8
    assert (penalised(torch.float16) - wanted).norm() <= 0.02 * wanted.norm()


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    plan = draw_plan(METHODS[name], T, torch.Generator().manual_seed(0))
    whole = task_of(penalty=5.0)

    def one_by_one() -> None:
        base = tuned()[0]
        for row in range(BATCH):
            conditions = {name: part[row : row + 1] for name, part in conditions_of(base, BATCH).items()}
            denoiser = GuidedDenoiser(base, conditions, conditions, UNGUIDED)
            part = replace(
                whole,
                denoiser=denoiser,
                rewards_of=lambda clean, _, row=row, **sides: rewards_of(clean, slice(row, row + 1), **sides),
                draw_noise=lambda *key, row=row: noise(*key)[row : row + 1],
                penalty=BasePenalty(denoiser, 5.0),
                gradient_scale=1 / BATCH,
            )
            supervise(part, METHODS[name], plan)

    together = gradient_left_by(lambda: supervise(whole, METHODS[name], plan))
    assert error(gradient_left_by(one_by_one), together) <= 1e-9


@pytest.mark.parametrize("name", ["draft_k", "draft_lv", "alignprop", "full", "leapalign", "direct_align", "srpo"])
def test_what_is_not_stopped_early_is_scored_at_the_end_of_the_chain(name: str) -> None:
    task = task_of()
    with torch.no_grad():
        latents = noise()
        for step in task.sampler.steps:
            (a, b), output = step.move, task.denoiser(latents, step.timesteps(latents))
            latents = a * latents + b * output
    rewards = supervise(task, METHODS[name], draw_plan(METHODS[name], T, torch.Generator().manual_seed(0)))
    same = torch.allclose(rewards, rewards_of(latents, slice(0, BATCH)))
    assert same == (name not in ("direct_align", "srpo"))  # which score what they recover

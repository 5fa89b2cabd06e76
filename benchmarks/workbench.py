"""What the benchmarks share: one tuning task on the miniature, and how its memory and time are measured.

Ratios within one run are what counts; seconds belong to the machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from drtune.config import Config, MethodConfig, load_config
from drtune.methods.draws import Draws, generator_of
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.plans import draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.methods.sweep import reward_gradient
from drtune.models.adapter import add_adapter
from drtune.models.base import Base
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.miniature.world import scenes
from drtune.rewards import WeightedSum
from drtune.training.optimization import make_optimizer
from drtune.training.plan.meter import LiveBytes


class Bench:
    """A base with a fresh LoRA, one batch of prompts and a reward: what an update needs.

    `base` is on its device, and its text encoders are given back.
    """

    def __init__(self, config: Config, base: Base, prompts: Sequence[str], reward: WeightedSum, seed: int = 0) -> None:
        self.config, self.base, self.prompts, self.reward = config, base, prompts, reward
        self.sampler = base.sampler(config.sampler)
        conditions, negative = base.encode(prompts), base.encode_negative("")
        base.free_text_encoders()
        self.weights = add_adapter(base, config.lora, seed=0)
        base.prepare(config.compute)
        self.optimizer = make_optimizer(self.weights, config.optimizer)
        self.denoiser = GuidedDenoiser(
            base, conditions, negative, config.sampler, arithmetic=DTYPES[config.compute.precision]
        )
        self.draws = Draws(seed, len(prompts), len(prompts), (base.latents_shape,))

    def noise(self, *key: int | str) -> Tensor:
        """Unit noise (B, C, H, W)."""
        return self.draws.noise(1, range(len(self.prompts)), *key).to(self.base.device)

    def rewards_of(self, clean_BCHW: Tensor, rows: slice, **sides: Any) -> Tensor:
        """Rewards of clean latents."""
        rewards = self.reward(self.base.decode(clean_BCHW), self.prompts[rows], **sides)
        self.reward.take_means()
        return rewards

    def task(self) -> Task:
        """What `supervise` takes."""
        return Task(self.denoiser, self.sampler, self.rewards_of, self.noise, self.config.compute)

    def update(self, step: int = 1, method: MethodConfig | None = None) -> None:
        """One update as the trainer makes it; `step` draws the plan."""
        method = method or self.config.method
        plan = draw_plan(method, len(self.sampler.steps), generator_of(0, "plan", step))
        supervise(self.task(), method, plan)
        self.step_optimizer()

    def step_optimizer(self) -> None:
        """Clip, step, and forget the gradient."""
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def parts(self, trained: int) -> dict[str, Callable[[], object]]:
        """What an update is made of that runs all steps and trains so many of them."""
        latents = self.noise()
        timesteps = self.sampler.steps[len(self.sampler.steps) // 2].timesteps(latents)

        @torch.no_grad()
        def forwards() -> None:
            for _ in self.sampler.steps:
                self.denoiser(latents, timesteps)

        def forwards_and_backwards() -> None:
            for _ in range(trained):
                output = self.denoiser(latents, timesteps)
                output.backward(torch.ones_like(output))

        return {
            "roll-out": forwards,
            "trained forwards and backwards": forwards_and_backwards,
            "decode, reward and their backward": lambda: reward_gradient(self.rewards_of, latents),
            "optimizer": self.step_optimizer,
        }

    def denoising_step(self) -> None:
        """One ordinary LoRA update with the denoising loss (Ho et al. 2020, equation 14) on the same batch."""
        step = self.sampler.steps[len(self.sampler.steps) // 2]
        signal, noise = step.level
        epsilon = self.noise("epsilon")
        latents = signal * self.noise("clean") + noise * epsilon
        output = self.denoiser(latents, step.timesteps(latents))
        torch.nn.functional.mse_loss(output, epsilon).backward()
        self.step_optimizer()


class Workbench(Bench):
    """The miniature, with other prompts for each seed."""

    def __init__(self, overrides: Sequence[str] = (), seed: int = 0) -> None:
        quiet_libraries()
        config = load_config("configs/miniature.yaml", overrides)
        prompts = [scene.caption for scene in scenes(seed=7 + seed, count=config.batch_size)]
        reward = WeightedSum.load(
            config.rewards, antialias=config.reward_antialias, checkpoints=config.reward_checkpoints
        )
        super().__init__(config, load_base(config.base_model), prompts, reward, seed)


def peak_bytes(run: Callable[[], Any]) -> int:
    """Largest sum of the bytes of all tensors that are alive at once while `run` runs, above what lives before it.

    The second time it runs: the optimizer's moments and other things that are made once are there already.
    """
    run()
    gc.collect()
    live = LiveBytes(standing=[thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)])
    with live:
        run()
    return live.take_peak()


def seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each in every round, taken in turn so that a slow moment of the machine hits all alike."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            finish()
            started = time.perf_counter()
            run()
            finish()
            times[name].append(time.perf_counter() - started)
    return times


def ratio_to_sum(whole: Sequence[float], parts: Iterable[Sequence[float]]) -> float:
    """Seconds of the whole to the sum of those of its parts: the median over the rounds, whose pace may change."""
    sums: list[float] = [sum(others) for others in zip(*parts, strict=True)]
    return median(one / total for one, total in zip(whole, sums, strict=True))


def finish() -> None:
    """Wait for what a GPU was given to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()

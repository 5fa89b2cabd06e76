"""The update, in the order of the paper: plan, sample and supervise, average, clip, step."""

from __future__ import annotations

import resource
import signal
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from drtune.config import Config
from drtune.errors import UserError
from drtune.lifetime import most_resident
from drtune.methods.draws import Draws, generator_of
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.loss_scale import scaled, unscaled
from drtune.methods.penalty import BasePenalty
from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.models.base import EncodedPrompts
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.miniature.cores import is_small, take_one_thread
from drtune.models.quantized import quantize
from drtune.models.start import read_start
from drtune.prompts.prepare import PreparedPrompts
from drtune.rewards import WeightedSum
from drtune.training.history import UpdateMetrics
from drtune.training.interrupts import Interrupts
from drtune.training.optimization import (
    check_finite,
    check_weights,
    learning_rate,
    make_optimizer,
    mean_decay,
    moved_against,
)
from drtune.training.pictures import pictures_of
from drtune.training.processes import Processes
from drtune.training.state import TrainState
from drtune.training.weights import open_weights


def most_memory() -> int:
    """The most bytes that this process has taken so far: of the GPU by tensors, or without one by all of it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return most_resident(resource.getrusage(resource.RUSAGE_SELF))


class Updates:
    """All that an update needs, loaded and in place; `update` makes one.

    Args:
        config: The run's.
        prompts: Its training side is learnt from.
        out: Beside it, on the same disk, encoded prompts are kept.
        processes: This one takes its share of each batch.

    Raises:
        UserError: no prompt to train on, or something in the configuration that cannot be had here.
    """

    def __init__(self, config: Config, prompts: PreparedPrompts, out: Path, processes: Processes) -> None:
        quiet_libraries()
        if is_small(config.base_model, config.trained_on):
            take_one_thread()
        self.config, self.out, self.processes = config, out, processes
        self.slots = processes.share(config.batch_size)
        self.prompts, self.texts = prompts, [prompt.text for prompt in prompts.train]
        if not self.texts:
            raise UserError(f"prompts {prompts.folder}: all are held out; prepare them again without --held-out")
        # Before anything heavy: a reward of your own is tried at once.
        self.reward = WeightedSum.load(
            config.rewards, antialias=config.reward_antialias, checkpoints=config.reward_checkpoints
        )
        self.start = read_start(config)
        self.pictures = pictures_of(config, prompts)
        self.interrupts = Interrupts()
        self.stopped_by: signal.Signals | None = None

        self.base = load_base(
            config.base_model,
            config.base_revision,
            precision=config.compute.precision,
            network_precision="fp32" if config.weights == "full" else None,
            height=config.height,
            width=config.width,
        )
        self.bases = [self.base, *map(self.base.resized, config.other_sizes)]
        self.samplers = [base.sampler(config.sampler) for base in self.bases]
        shapes = tuple(base.latents_shape for base in self.bases)
        self.draws = Draws(config.seed, len(self.texts), config.batch_size, shapes)
        with self.base.encoding_on(processes.device):
            self._encode_prompts()
        if kind := config.compute.quantization:
            quantize(self.base.network, processes.device, kind)
        self.base.pipeline.to(processes.device)

        weights = open_weights(self.base, config, processes, self.start)
        self.base.prepare(config.compute)
        average = {name: weight.detach().clone() for name, weight in weights.items()} if config.ema_decay else {}
        self.state = TrainState(weights, average, make_optimizer(weights, config.optimizer))
        in_fp16 = config.compute.precision == "fp16"
        self.loss_scale = partial(scaled, weights=weights.values(), mean=processes.mean) if in_fp16 else unscaled

    def _encode_prompts(self) -> None:
        """Encode what this process will show to the network, beside `out`."""
        shown: set[int] = set()
        for step in range(1, self.config.steps + 1):
            shown |= {self.draws.prompt(step, slot) for slot in self.slots}
            if len(shown) == len(self.texts):  # a long run shows them all, again and again
                break
        if self.pictures:
            self.pictures.check(shown)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.conditions = EncodedPrompts(
            self.base, {index: self.texts[index] for index in sorted(shown)}, self.out.parent
        )
        self.negative = self.base.encode_negative(self.config.sampler.negative_prompt)

    def update(self, step: int) -> UpdateMetrics:
        """The `step`-th optimizer update, from 1. All that it draws depends on the seed and on `step` alone."""
        started = time.monotonic()
        config = self.config
        plan = self.plan(step)
        rewards = self._take_gradient(step, plan)
        parts = self.reward.take_means()
        if rho := config.method.weight_rho:
            with moved_against(self.state.weights.values(), rho):
                self._take_gradient(step, plan)
            self.reward.take_means()  # of pictures that are not this model's
        grad_norm = torch.nn.utils.clip_grad_norm_(self.state.weights.values(), config.optimizer.max_grad_norm).item()
        told = rewards.new_tensor(self.interrupts.received is not None, dtype=rewards.dtype)
        reward, any_told, *means = self.processes.mean(torch.stack([rewards.mean(), told, *parts.values()])).tolist()
        if any_told:  # one process suffices, and all end after the same update
            self.stopped_by = self.interrupts.received or signal.SIGTERM
        check_finite(step, reward, grad_norm, config.optimizer)
        rate = learning_rate(config.optimizer, step, config.steps)
        self.state.step(rate, mean_decay(config.ema_decay, step))
        check_weights(step, self.state.weights.values(), config.optimizer)
        return UpdateMetrics(
            step=step,
            reward=reward,
            rewards=dict(zip(parts, means, strict=True)),
            grad_norm=grad_norm,
            learning_rate=rate,
            stop=plan.stop,
            trained=plan.trained,
            seconds=time.monotonic() - started,
            at=time.time(),
            memory=most_memory(),
        )

    def plan(self, step: int) -> Plan:
        """What the `step`-th update does."""
        return draw_plan(self.config.method, self.config.sampler.steps, generator_of(self.config.seed, "plan", step))

    def _take_gradient(self, step: int, plan: Plan) -> Tensor:
        """Rewards (B,) of this process's pictures; the gradient of all of the batch is in `.grad`."""
        at_once = self.config.compute.rollout_batch(len(self.slots))
        starts = range(0, len(self.slots), at_once)
        rewards = [self._supervise(step, self.slots[start : start + at_once], plan) for start in starts]
        self.processes.average_gradients(self.state.weights.values())
        return torch.cat(rewards)

    def _supervise(self, step: int, slots: range, plan: Plan) -> Tensor:
        """Rewards (B,) of the pictures of some slots; their share of the gradient is added to `.grad`."""
        config, turn = self.config, self.draws.turn(step)
        base = self.bases[turn]
        chosen = [self.draws.prompt(step, slot) for slot in slots]
        prompts = [self.texts[index] for index in chosen]
        denoiser = GuidedDenoiser(
            base,
            self.conditions[chosen],
            self.negative,
            config.sampler,
            arithmetic=DTYPES[config.compute.precision],
        )
        price = config.base_penalty / len(plan.trained)
        task = Task(
            denoiser,
            self.samplers[turn],
            rewards_of=lambda clean, rows, **sides: self.reward(base.decode(clean), prompts[rows], **sides),
            draw_noise=lambda *key: self.draws.noise(step, slots, *key).to(self.processes.device),
            penalty=BasePenalty(denoiser, price) if price else None,
            compute=config.compute,
            gradient_scale=len(slots) / len(self.slots),
            loss_scale=self.loss_scale,
            unrecorded=self.reward.unrecorded,
            real_BCHW=self.pictures.latents(base, chosen) if self.pictures else None,
        )
        return supervise(task, config.method, plan)

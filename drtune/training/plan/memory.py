"""How many bytes a run holds: its own code, run on fake tensors, while every byte that is alive is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, unset_fake_temporarily

from drtune.config import Config
from drtune.errors import UserError
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.plans import Plan
from drtune.methods.sweep import reward_gradient, roll_out, sweep_back
from drtune.models.adapter import add_adapter
from drtune.models.base import ENCODED_TOGETHER, Base, Conditions
from drtune.models.drawing import draw_unchecked
from drtune.models.loading import DTYPES
from drtune.models.quantized import quantize
from drtune.models.sampler import Sampler
from drtune.models.tensors import optimizer_tensors
from drtune.rewards import WeightedSum
from drtune.training.optimization import make_optimizer
from drtune.training.plan.architectures import OneStep, give_content
from drtune.training.plan.autocast import cuda_autocast
from drtune.training.plan.meter import LiveBytes, SavedBytes, bytes_of
from drtune.training.plan.rewards import networks, reward_shell
from drtune.training.plan.sharded import gathered_bytes
from drtune.training.samples import NUM_PICTURES


@dataclass(frozen=True)
class Phase:
    """A part of a run, in bytes on the device."""

    standing: int
    """Weights and what belongs to them."""
    in_flight: int
    """The most that it holds beyond that at any moment."""
    saved: int
    """Of that, the most that autograd keeps for a backward pass."""

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return self.standing + self.in_flight


@dataclass(frozen=True)
class Memory:
    """What one process holds, in bytes: on its device, but for the prompts."""

    parameters: dict[str, int]
    """How many each part has in all; the text encoders are freed when the prompts are encoded."""
    weights: dict[str, int]
    """What stands while training: weights that are frozen, and those that train with all that follows them."""
    prompt: int
    """One encoded prompt; all of them are kept on disk."""
    phases: dict[str, Phase]

    @property
    def peak(self) -> int:
        """The most at any moment of the run."""
        return max(phase.peak for phase in self.phases.values())


def measure(config: Config, base: Base, sampler: Sampler, plans: Sequence[Plan]) -> Memory:
    """The memory of a run on as many processes as the configuration says; `base` is a shell, and is used up."""
    rewards = {name: reward_shell(name, antialias=config.reward_antialias) for name in config.trained_on}
    total = WeightedSum([(rewards[name], term) for name, term in config.rewards.items()])
    learned = networks(rewards.values())
    parameters = {
        "network": _count(base.network),
        "VAE": _count(base.pipeline.vae),
        "text encoders": _count(*base.text_encoders),
        "rewards": _count(*learned),
    }
    if config.weights == "lora":
        add_adapter(base, config.lora, config.seed)
    else:
        base.network.requires_grad_()
    base.prepare(config.compute.model_copy(update={"compile": False}))
    parameters["trained"] = sum(weight.numel() for weight in _trained(base))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (*_modules(base).values(), *learned):
            give_content(module)
        if kind := config.compute.quantization:
            quantize(base.network, torch.device("cpu"), kind)
        return _Run(config, base, sampler, plans, total, learned).measure(parameters)


class _Run:
    """A run on fake tensors, as far as its memory goes."""

    def __init__(
        self,
        config: Config,
        base: Base,
        sampler: Sampler,
        plans: Sequence[Plan],
        reward: WeightedSum,
        learned: Sequence[torch.nn.Module],
    ) -> None:
        self.config, self.base, self.sampler, self.plans, self.reward = config, base, sampler, plans, reward
        self.largest = max([base, *map(base.resized, config.other_sizes)], key=lambda one: one.num_tokens)
        trained = _trained(base)
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        self.shards = config.process_count if config.weights == "full" else 1
        self.gathered = gathered_bytes(base.network) if self.shards > 1 else 0
        self.weights = self._weights(trained, learned)
        modules = _modules(base).values()
        self.encoders = bytes_of(_tensors(*base.text_encoders))
        standing = [*_tensors(*modules, *learned), *(weight.grad for weight in trained if weight.grad is not None)]
        self.live, self.saved = LiveBytes(standing), SavedBytes(standing)

    def _weights(self, trained: Sequence[Tensor], learned: Sequence[torch.nn.Module]) -> dict[str, int]:
        named = {str(index): weight for index, weight in enumerate(trained)}
        if self.config.optimizer.eight_bit:  # which makes a table of numbers first, and cannot step on none
            with unset_fake_temporarily():
                optimizer: Any = make_optimizer(named, self.config.optimizer)
            for index, weight in enumerate(trained):
                optimizer.init_state(optimizer.param_groups[0], weight, 0, index)
        else:
            optimizer = make_optimizer(named, self.config.optimizer)
            optimizer.step()
        state = bytes_of(optimizer_tensors(optimizer).values())
        train = bytes_of(trained)
        return {
            "network, frozen": bytes_of(_tensors(self.base.network)) - train,
            "VAE": bytes_of(_tensors(self.base.pipeline.vae)),
            "rewards": bytes_of(_tensors(*learned)),
            "trained": train // self.shards,
            "gradients": train // self.shards,
            "optimizer": state // self.shards,
            "running mean": train // self.shards if self.config.ema_decay else 0,
            "trained, before a move": train // self.shards if self.config.method.weight_rho else 0,
        }

    def measure(self, parameters: dict[str, int]) -> Memory:
        """Go through the phases of a run in their order."""
        with self.live, self.saved, cuda_autocast():
            encoded = self.base.encode([""] * ENCODED_TOGETHER)
            prompt = bytes_of(encoded.values()) // ENCODED_TOGETHER
            self.one = {name: tensor[[0]] for name, tensor in encoded.items()}
            del encoded  # they go to disk
            self.negative = self.base.encode_negative("")
            self.base.free_text_encoders()
            phases = {"encode prompts": self._phase(self.encoders)}
            phases |= self._update()
            phases |= self._samples()
        return Memory(parameters, self.weights, prompt, phases)

    def _phase(self, standing: int, gathered: int = 0) -> Phase:
        """What was held since the last phase."""
        return Phase(standing, self.live.take_peak() + gathered, self.saved.take_peak())

    def _update(self) -> dict[str, Phase]:
        """One update of the largest pictures, with no more steps than its memory needs."""
        config, compute = self.config, self.config.compute
        share = config.batch_size // config.process_count
        batch, rolled_out = compute.micro_batch(share), compute.rollout_batch(share)
        denoiser = GuidedDenoiser(
            self.largest,
            self._conditions(rolled_out),
            self.negative,
            config.sampler,
            arithmetic=DTYPES[compute.precision],
        )
        plan = self._short_plan()
        standing = sum(self.weights.values())

        latents = torch.randn(rolled_out, *self.largest.latents_shape)
        rollout = roll_out(
            denoiser,
            self.sampler,
            latents,
            plan,
            draw_noise=lambda *_key: torch.randn_like(latents),
            keep_graphs=compute.keep_graphs,
        )
        phases = {"roll out": self._phase(standing, self.gathered)}

        def rewards_of(clean_BCHW: Tensor, _rows: slice) -> Tensor:
            return self.reward(self.largest.decode(clean_BCHW), [""] * len(clean_BCHW))

        if batch < rolled_out:
            denoiser, rollout = denoiser.part(slice(batch)), rollout.part(slice(batch))
        try:
            _, gradient = reward_gradient(rewards_of, rollout.clean_BCHW, compute.decode_batch_size)
        except DataDependentOutputException as error:
            raise UserError(
                f"rewards {', '.join(config.rewards)}: one of them looks at values ({error}), and pictures have none "
                "in a plan; plan with another reward"
            ) from None
        self.reward.take_means()
        phases["decode and reward"] = self._phase(standing)
        sweep_back(denoiser, self.sampler, rollout, gradient, plan, replay_batch=compute.replay_batch)
        phases["sweep back"] = self._phase(standing, 2 * self.gathered)  # gradients are whole before they are shared
        return phases

    def _conditions(self, batch: int) -> Conditions:
        return {name: torch.cat([tensor] * batch) for name, tensor in self.one.items()}

    def _short_plan(self) -> Plan:
        """The plan with the most trained steps, less those that hold nothing that others do not."""
        longest = max(self.plans, key=lambda plan: len(plan.trained))
        # A gradient passes through the input of all trained steps but the first.
        compute = self.config.compute
        wanted = max(compute.replay_batch, compute.keep_graphs + 1, 2 if longest.alpha else 1)
        count = min(len(longest.trained), wanted)
        return Plan(stop=count - 1, trained=tuple(range(count)), alpha=longest.alpha)

    def _samples(self) -> dict[str, Phase]:
        """One step and the decoding of held-out pictures."""
        settings = self.config.evaluation
        batch = min(settings.batch_size, len(self.config.sample_prompts or ()) or NUM_PICTURES)
        pipeline = self.base.pipeline
        pipeline.scheduler = OneStep(pipeline.scheduler.config)
        guidance_scale = settings.sampler.guidance_scale
        conditions = self._conditions(batch)
        draw_unchecked(
            self.base, conditions, self.negative, range(batch), steps=1, guidance_scale=guidance_scale, sigmas=[1.0]
        )
        return {"samples": self._phase(sum(self.weights.values()), self.gathered)}


def _modules(base: Base) -> dict[str, torch.nn.Module]:
    """The networks of the pipeline by name."""
    return {name: part for name, part in base.pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _trained(base: Base) -> list[torch.nn.Parameter]:
    return [weight for weight in base.network.parameters() if weight.requires_grad]


def _tensors(*modules: torch.nn.Module) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())

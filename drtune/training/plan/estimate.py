"""What a run will cost, whether it fits on a GPU, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drtune.config import Config
from drtune.models.loading import quiet_libraries
from drtune.training.checks import check_bitsandbytes
from drtune.training.plan.architectures import shell
from drtune.training.plan.memory import Memory, measure
from drtune.training.plan.work import Count, count_work, drawn_plans

KEPT_FREE = 0.1
"""Share of a GPU that a plan leaves to CUDA's context, the workspaces of its libraries, and fragmentation."""


@dataclass(frozen=True)
class Estimate:
    """What a run of one configuration costs."""

    config: Config
    height: int
    width: int
    forwards: Count
    """Of the network, for each picture of an update."""
    backwards: Count
    guided: bool
    """Each forward sees a picture twice: with its prompt and with the negative one."""
    memory: Memory

    def fits(self, gpu: int) -> bool:
        """Whether it fits on a GPU of so many bytes."""
        return self.memory.peak <= (1 - KEPT_FREE) * gpu


@dataclass(frozen=True)
class Remedy:
    """Changes that lower the memory, in the order in which they were made, and what the run then costs."""

    changes: dict[str, object]
    estimate: Estimate


def estimate(config: Config) -> Estimate:
    """What a run of this configuration costs in work and memory, without its weights and without a network.

    Raises:
        UserError: the base's architecture is not known, the configuration does not fit it, or takes a package that is
            not installed.
    """
    check_bitsandbytes(config)
    quiet_libraries()
    base = shell(config)
    sampler = base.sampler(config.sampler)
    base.check_steps(config.evaluation.sampler.steps)
    plans = drawn_plans(config)
    forwards, backwards = count_work(config, sampler, plans)
    return Estimate(
        config=config,
        height=base.height,
        width=base.width,
        forwards=forwards,
        backwards=backwards,
        guided=config.sampler.guidance_scale > 1 and not base.embeds_guidance,
        memory=measure(config, base, sampler, plans),
    )


def remedy(made: Estimate, gpu: int, tell: Callable[[str], None]) -> Remedy:
    """Changes to a configuration that does not fit, tried one after the other until it fits or none is left."""
    changes: dict[str, object] = {}
    while not made.fits(gpu) and (change := _change(made)):
        key, value = change
        tell(f"trying {key}={value}")
        changes[key] = value
        section, name = key.split(".")
        part = getattr(made.config, section).model_copy(update={name: value})
        made = estimate(made.config.model_copy(update={section: part}))
    return Remedy(changes, made)


def _change(made: Estimate) -> tuple[str, object] | None:
    """The cheapest change that lowers the phase with the peak, if there is one left."""
    compute = made.config.compute
    share = made.config.batch_size // made.config.process_count
    at_once, rolled_out = compute.micro_batch(share), compute.rollout_batch(share)
    fewer_pictures = ("compute.micro_batch_size", 1, at_once > 1)
    fewer_sampled = ("compute.rollout_batch_size", at_once, rolled_out > at_once)
    lower_precision = ("compute.precision", "bf16", compute.precision == "fp32")
    checkpointing = ("compute.gradient_checkpointing", True, not compute.gradient_checkpointing)
    remedies: dict[str, list[tuple[str, object, bool]]] = {
        "encode prompts": [lower_precision],
        "roll out": [lower_precision, fewer_sampled, fewer_pictures],
        "decode and reward": [
            ("compute.keep_graphs", 0, compute.keep_graphs > 0),
            ("compute.decode_batch_size", 1, min(compute.decode_batch_size or at_once, at_once) > 1),
            lower_precision,
            checkpointing,
            fewer_pictures,
        ],
        "sweep back": [
            ("compute.replay_batch", 1, compute.replay_batch > 1),
            ("compute.keep_graphs", 0, compute.keep_graphs > 0),
            lower_precision,
            fewer_pictures,
            checkpointing,
        ],
        "samples": [("evaluation.batch_size", 1, made.config.evaluation.batch_size > 1), lower_precision],
    }
    phases = made.memory.phases
    highest = max(phases, key=lambda name: phases[name].peak)
    return next(((key, value) for key, value, possible in remedies[highest] if possible), None)

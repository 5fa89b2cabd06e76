"""Numbers of a configuration that are each possible, and together are not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drtune.config.tree import ComputeSection, Config, MethodConfig


def size(text: str) -> str:
    """A picture's size in pixels, `width x height`.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch("[1-9][0-9]+x[1-9][0-9]+", text):
        raise ValueError("give width and height in pixels, as in 1216x832")
    return text


def check_batches(compute: ComputeSection, batch_size: int, processes: int, most: int) -> None:
    """Refuse more pictures at once than there could be room for, and graphs that are kept of another batch.

    Raises:
        ValueError: naming the key, its value and what would fit.
    """
    share = batch_size // processes
    micro, rollout = compute.micro_batch(share), compute.rollout_batch(share)
    for key, at_once in (("micro_batch_size", micro), ("rollout_batch_size", rollout)):
        if at_once > most:
            raise ValueError(
                f"batch_size={batch_size} over processes={processes} is {at_once} pictures at once: "
                f"give compute.{key}, at most {most}"
            )
    if compute.keep_graphs and rollout != micro:
        raise ValueError(
            f"compute.rollout_batch_size={compute.rollout_batch_size}: graphs are kept from the roll-out, "
            f"which then has the micro-batch of {micro}: leave it out, or give compute.keep_graphs=0"
        )
    if rollout < micro:
        raise ValueError(
            f"compute.rollout_batch_size={rollout} is less than the micro-batch of {micro} that is taken of it: "
            f"give compute.micro_batch_size, at most {rollout}"
        )


def check_method(method: MethodConfig, steps: int) -> None:
    """Refuse a K or m that the sampler's T steps cannot hold, where the method reads it, and what it does not read.

    Raises:
        ValueError: naming the key, its value and what would fit.
    """
    needs_k = ("drtune", "draft_k", "alignprop", "flowbp_sparse", "flowbp_bridge")
    if method.name in needs_k and method.trained_steps > steps:
        raise ValueError(
            f"method.trained_steps={method.trained_steps} is more than sampler.steps={steps}: give at most {steps}"
        )
    if method.name in ("drtune", "refl") and method.early_stop > steps:
        raise ValueError(
            f"method.early_stop={method.early_stop} is more than sampler.steps={steps}: give at most {steps}"
        )
    if method.name == "drtune" and method.placement == "chain":
        most = (method.trained_steps - 1) * (steps // method.trained_steps) + 1
        if method.early_stop > most:
            raise ValueError(
                f"method.early_stop={method.early_stop} with placement=chain could cut all trained steps off: "
                f"give at most {most}, or placement=prefix"
            )
    elif method.name == "drtune" and (executed := steps - method.early_stop + 1) < method.trained_steps:
        raise ValueError(
            f"method.trained_steps={method.trained_steps} does not fit into the {executed} steps that are always "
            f"executed (sampler.steps={steps} less method.early_stop={method.early_stop} plus 1): lower one of the two"
        )
    if method.name in ("direct_align", "srpo"):
        _check_recoveries(method, steps)
    elif method.pictures is not None:
        raise ValueError(
            f"method.pictures={method.pictures!r}: {method.name} starts from noise; give method.name=srpo or "
            "direct_align, or leave it out"
        )
    for key, value, readers in (
        ("rescale", method.rescale, ("flowbp_sparse", "flowbp_bridge", "flowbp_lagrange")),
        ("tau", method.tau, ("leapalign", "flowbp_lagrange")),
    ):
        if value is not None and method.name not in readers:
            raise ValueError(
                f"method.{key}={value:g}: {method.name} does not read it; give method.name={' or '.join(readers)}, "
                "or leave it out"
            )
    if method.name in ("leapalign", "flowbp_bridge", "flowbp_lagrange") and steps < 2:
        raise ValueError(f"method.name={method.name} takes two steps, sampler.steps={steps}: give at least 2")
    if method.name == "flowbp_bridge" and method.trained_steps < 2:
        raise ValueError(
            f"method.trained_steps={method.trained_steps}: flowbp_bridge trains on both sides of its bridge; "
            "give at least 2"
        )
    if method.name in ("draft_lv", "direct_align", "srpo") and method.weighting != "chain":
        raise ValueError(
            f"method.weighting={method.weighting}: {method.name} trains steps of its own making; leave it at chain"
        )


def check_weights(config: Config) -> None:
    """Refuse what weights=full or quantized weights cannot do.

    Raises:
        ValueError: naming the key, its value and what would do.
    """
    quantization, is_full = config.compute.quantization, config.weights == "full"
    base_steps = config.evaluation.sampler.base_steps
    refused = (
        ("compute.quantization", quantization, "is for frozen weights, and with weights=full none are"),
        ("evaluation.sampler.base_steps", base_steps, "draws with the base, which weights=full overwrites"),
        ("base_penalty", config.base_penalty, "compares with the base, which weights=full overwrites"),
    )
    for key, value, why in refused if is_full else ():
        if value:
            raise ValueError(f"{key}={value} {why}: give weights=lora, or leave it out")
    if quantization and config.compute.compile:
        raise ValueError(
            f"compute.compile=true cannot compile compute.quantization={quantization}: leave one of them out"
        )
    if is_full and config.optimizer.eight_bit and config.process_count > 1:
        raise ValueError(
            f"optimizer.eight_bit=true cannot be shared out by processes={config.processes}, as weights=full are: "
            "leave it out, or give processes=1"
        )


def _check_recoveries(method: MethodConfig, steps: int) -> None:
    """Direct-Align takes no last step, and SRPO none that has not another beyond it to step back from."""
    untaken = 2 if method.name == "srpo" else 1
    if steps <= untaken:
        raise ValueError(
            f"sampler.steps={steps}: {method.name} cannot take the last {untaken} of them; give at least {untaken + 1}"
        )
    if method.early_stop > steps - untaken:
        raise ValueError(
            f"method.early_stop={method.early_stop}: {method.name} cannot take the last {untaken} of "
            f"sampler.steps={steps}: give at most {steps - untaken}"
        )
    if method.recoveries > method.early_stop:
        raise ValueError(
            f"method.recoveries={method.recoveries} are among the method.early_stop={method.early_stop} steps that "
            f"{method.name} may take: give at most {method.early_stop}"
        )

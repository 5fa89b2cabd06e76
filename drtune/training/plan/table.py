"""A plan as text for people, and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from drtune.training.plan.estimate import KEPT_FREE, Estimate, Remedy
from drtune.training.plan.rewards import VISION_LANGUAGE
from drtune.training.plan.units import in_unit, unit_of

MILLION = 1_000_000


def as_text(made: Estimate) -> str:
    """The work of an update and the memory of a run, in tables."""
    config, memory = made.config, made.memory
    share = config.batch_size // config.process_count
    rolled_out, at_once = config.compute.rollout_batch(share), config.compute.micro_batch(share)
    unit = unit_of(memory.peak)

    def told(size: int) -> str:
        return f"{in_unit(size, unit):>10}"

    trained = f"a LoRA of rank {config.lora.rank}" if config.weights == "lora" else "all weights"
    sizes = ", ".join([f"{made.width} x {made.height}", *(size.replace("x", " x ") for size in config.other_sizes)])
    processes = f"{config.process_count} {'process' if config.process_count == 1 else 'processes'}"
    lines = [
        f"{config.base_model}, {sizes}, {config.compute.precision}, {trained} by {config.method.name}",
        f"{config.batch_size} pictures an update: {share} in each of {processes}, {rolled_out} sampled at once and "
        f"{at_once} trained on",
        "",
        f"{'each picture in an update':<28}{'least':>10}{'mean':>10}{'most':>10}",
    ]
    for name, count in (("network forwards", made.forwards), ("network backwards", made.backwards)):
        lines.append(f"  {name:<26}{count.least:>10}{count.mean:>10.1f}{count.most:>10}")
    if made.guided:
        lines.append("  (each on two pictures, for guidance)")
    lines += ["", "parameters, in millions"]
    lines += [f"  {name:<26}{number / MILLION:>10,.1f}" for name, number in memory.parameters.items()]
    lines += ["", f"weights and what follows them, in {unit} on each GPU"]
    lines += [f"  {name:<26}{told(size)}" for name, size in memory.weights.items()]
    phases = f"phases, in {unit} on each GPU"
    lines += ["", f"{phases:<28}{'standing':>10}{'in flight':>10}{'peak':>10}{'saved for backward':>20}"]
    for name, phase in memory.phases.items():
        lines.append(
            f"  {name:<26}{told(phase.standing)}{told(phase.in_flight)}{told(phase.peak)}{told(phase.saved):>20}"
        )
    most = config.steps * share
    lines += [
        "",
        f"encoded prompts: {in_unit(memory.prompt, 'MiB')} MiB each on disk, at most {most:,} of them "
        f"({in_unit(memory.prompt * most, 'GiB')} GiB)",
        f"peak: {in_unit(memory.peak, unit)} {unit} on each GPU",
    ]
    if config.compute.compile:
        lines.append("compute.compile is not counted: compiled code holds less.")
    if any(".py:" in name for name in config.rewards):
        lines.append("Weights of your own rewards are not counted.")
    if not VISION_LANGUAGE.isdisjoint(config.rewards):
        lines.append("Of a vision-language model as reward the weights are counted, and not what its gradient holds.")
    return "\n".join(lines)


def verdict(made: Estimate, gpu: int, found: Remedy | None) -> str:
    """Whether it fits on a GPU of so many bytes; if not, what was found to do about it."""
    unit = unit_of(gpu)
    total = f"{in_unit(gpu, unit)} {unit}, of which {KEPT_FREE:.0%} is left to CUDA itself"
    needs = f"{in_unit(made.memory.peak, unit)} of {total}"
    if found is None:
        return f"fits: {needs}"
    changes = " ".join(f"--set {key}={_yaml(value)}" for key, value in found.changes.items())
    lower = f"{in_unit(found.estimate.memory.peak, unit)} {unit}"
    if found.estimate.fits(gpu):
        return f"does not fit: {needs}\nit fits, with {lower}, by {changes}"
    sizes = "height, width and other_sizes" if made.config.other_sizes else "height and width"
    hints = f"lower {sizes}, take a smaller base, or a larger GPU"
    if made.config.weights == "lora" and made.config.compute.quantization != "nf4":
        hints = f"give compute.quantization=nf4, {hints}"
    if made.config.weights == "full":
        hints = f"give weights=lora or shard over more processes, {hints}"
    tried = f"{changes} brings it to {lower}; " if changes else ""
    return f"does not fit: {needs}\n{tried}{hints}"


def as_json(made: Estimate, gpu: int | None, found: Remedy | None) -> str:
    """All numbers, in bytes."""
    content: dict[str, object] = {
        "base_model": made.config.base_model,
        "width": made.width,
        "height": made.height,
        "processes": made.config.process_count,
        "forwards": asdict(made.forwards),
        "backwards": asdict(made.backwards),
        "guided": made.guided,
        "memory": asdict(made.memory),
        "peak": made.memory.peak,
    }
    if gpu is not None:
        content |= {"gpu": gpu, "kept_free": KEPT_FREE, "fits": made.fits(gpu)}
    if found is not None:
        content["remedy"] = {
            "changes": found.changes,
            "peak": found.estimate.memory.peak,
            "fits": gpu is not None and found.estimate.fits(gpu),
        }
    return json.dumps(content, indent=2)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

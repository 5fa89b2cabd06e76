"""What came of a training run, for a person: printed at its end and kept as OUT/summary.md."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from drtune.config import Config, HeldOut
from drtune.contracts import CONFIG, CurvePoint, TunedModel
from drtune.files.markdown import code, plain, table
from drtune.training.history import WINDOW, UpdateMetrics, begun_from

SUMMARY, CHART = "summary.md", "curve.svg"


def summarise(
    model: TunedModel,
    config: Config,
    updates: Sequence[UpdateMetrics],
    points: Sequence[CurvePoint],
    held_out: Mapping[int, float],
    out: Path,
    prompts: Path,
) -> str:
    """The summary in Markdown.

    `updates` are all that were made, `points` the learning curve, `held_out` the checks that passed, 0 for
    where the run began.
    """
    parts = [
        f"# {plain(config.base_model)}, tuned on {plain(' + '.join(config.rewards))}",
        _what_happened(model, config, updates),
        _table(config, updates),
        *([_samples(model, config, points)] if len(points) > 1 else []),
        *([_held_out(model, config.held_out, updates, held_out, begun_from(config))] if config.held_out else []),
        _what_now(model, config, out, prompts),
    ]
    return "\n\n".join(parts) + "\n"


def last_words(model: TunedModel, out: Path) -> str:
    """What a run says when its model is made: its summary, and one line."""
    lines = (out / SUMMARY).read_text(encoding="utf-8").splitlines() if (out / SUMMARY).exists() else []
    page = "".join(f"{line}\n" for line in lines if not line.startswith("!["))  # a picture is none on a terminal
    return f"{page}\ntuned model: {out} ({model.told})"


def resume_command(out: Path, prompts: Path, *options: str) -> str:
    """What goes on with the run in `out`, in a shell."""
    command = ["drtune", "train", f"--config={out / CONFIG}", f"--prompts={prompts}", f"--out={out}", "--resume"]
    return shlex.join([*command, *options])


def _what_happened(model: TunedModel, config: Config, updates: Sequence[UpdateMetrics]) -> str:
    seconds = sum(update.seconds for update in updates)
    count = f"{len(updates)} updates" if len(updates) > 1 else "1 update"
    done = (
        f"{count} of {config.batch_size} prompts by {config.method.name} in {timedelta(seconds=round(seconds))}, "
        f"{seconds / len(updates):.2f} s each, without drawing samples and saving."
    )
    if model.step == config.steps:
        return done
    saved = f"the state after update {model.step}" if model.step else f"{begun_from(config)}, unchanged"
    return f"{done} Ended early because the held-out reward fell; saved is {saved}."


def _table(config: Config, updates: Sequence[UpdateMetrics]) -> str:
    """First and last updates side by side, in columns that line up."""
    count = max(1, min(WINDOW, len(updates) // 2))

    def means(part: Sequence[UpdateMetrics]) -> list[str]:
        columns = [
            [update.reward for update in part],
            *([update.rewards[name] for update in part] for name in config.rewards),
            [update.grad_norm for update in part],
        ]
        return [f"{fmean(column):.4g}" for column in columns]

    names = [
        "reward, the sum",
        *(f"{name}, weight {term.weight:g}" for name, term in config.rewards.items()),
        "gradient norm",
    ]
    first, last = means(updates[:count]), means(updates[-count:])
    rows = [("", f"first {count}", f"last {count}"), *zip(names, first, last, strict=True)]
    about = "Means over updates; each part is as the reward gave it, before weight, hinge and target:"
    return f"{about}\n\n{table(rows)}"


def _samples(model: TunedModel, config: Config, points: Sequence[CurvePoint]) -> str:
    """The first point of the curve beside that of what is saved, and the whole of it as a picture."""
    first, saved = points[0], next((point for point in points if point.step == model.step), points[-1])
    rows = [("", f"after {first.step}" if first.step else begun_from(config), f"after {saved.step}")]
    for name, value in first.rewards.items():
        told = name.rpartition(":")[2] + (", tuned on" if name in config.rewards else "")
        rows.append((told, f"{value:.4g}", f"{saved.rewards[name]:.4g}" if name in saved.rewards else "not finite"))
    whose = "Your sample prompts" if config.sample_prompts else "Held-out prompts"
    picture = f"![what the rewards give the samples]({CHART})"
    return f"{whose}, drawn from the same noise every {config.sample_every} updates:\n\n{table(rows)}\n\n{picture}"


def _held_out(
    model: TunedModel, held_out: HeldOut, updates: Sequence[UpdateMetrics], passed: Mapping[int, float], first: str
) -> str:
    lines = [f"Held-out reward {plain(held_out.reward)}, which may fall by {held_out.max_drop:g}:", ""]
    checks = {0: passed[0]} | {update.step: update.held_out for update in updates if update.held_out is not None}
    for step, value in checks.items():
        name = f"after update {step}" if step else first
        lines.append(f"- {name}: {value:.4g}{' (saved)' if step == model.step else ''}")
    return "\n".join(lines)


def _what_now(model: TunedModel, config: Config, out: Path, prompts: Path) -> str:
    evaluate = shlex.join(["drtune", "evaluate", f"--model={out}", f"--prompts={prompts}"])
    lines = [
        f"- The tuned weights: {code(str(out / model.weights_file))}",
        f"- Samples of the same prompts, before, during and after: {code(str(out / 'samples'))}",
        f"- Plots: {code(shlex.join(['tensorboard', f'--logdir={out}']))}",
        f"- Compare with the base: {code(evaluate)}",
    ]
    if model.step == config.steps and config.optimizer.schedule == "constant":
        more = resume_command(out, prompts, f"--set=steps={2 * config.steps}")
        lines.append(f"- Go on from here: {code(more)}")
    return "\n".join(lines)

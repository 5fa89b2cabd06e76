"""The tuner: prompts in, a tuned model out."""

from __future__ import annotations

import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from drtune.config import Config
from drtune.contracts import CONFIG, MANIFEST, PromptSet, TunedModel
from drtune.errors import InterruptionError, UserError
from drtune.files.images import grid
from drtune.files.local import claim, replacing, sha256_file, write_text
from drtune.files.provenance import code_revision
from drtune.files.storage import open_storage
from drtune.methods.draws import Draws, generator_of
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.loss_scale import scaled, unscaled
from drtune.methods.penalty import BasePenalty
from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import Task, supervise
from drtune.models.base import EncodedPrompts
from drtune.models.loading import DTYPES, load_base, quiet_libraries
from drtune.models.sharding import gather
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import load_prompts
from drtune.rewards import WeightedSum
from drtune.rewards.own import keep_files
from drtune.training.checkpoint import Checkpoints
from drtune.training.interrupts import Interrupts
from drtune.training.metrics import MetricLog, UpdateMetrics, check_wandb, mean_reward
from drtune.training.mirror import Mirror, as_kept_at
from drtune.training.optimization import DivergenceError, check_finite, learning_rate, make_optimizer
from drtune.training.processes import Processes
from drtune.training.samples import Samples, last_passed
from drtune.training.state import TrainState
from drtune.training.summary import SUMMARY, resume_command, summarise
from drtune.training.weights import open_weights, save_weights


def train(
    config: Config,
    prompts: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    mirror: str | None = None,
) -> TunedModel:
    """Tune the base model on the training prompts of a PromptSet folder; write a TunedModel folder to `out`.

    Under torchrun every process calls this and takes its share of each batch. With `resume` the run in `out` goes on
    from its newest checkpoint, or starts if there is none, and ends bit for bit as if it had never stopped; a finished
    run is left as it is. A `mirror` is a URI at which `out` is kept too, for nodes that do not share a disk.

    Raises:
        UserError: output that exists already, prompts or a checkpoint that do not fit, a training that diverges.
        InterruptionError: SIGTERM or Ctrl-C came, and the state is saved.

    >>> from drtune.config import load_config
    >>> model = train(load_config("configs/miniature.yaml", ["steps=80"]), "runs/prompts", "runs/model")
    """
    out, prompts = Path(out).resolve() if Path(out).is_symlink() else Path(out), Path(prompts)
    check_wandb(config)
    kept = Mirror(out, open_storage(mirror)) if mirror else None
    if kept is None and resume and (model := _finished(out, config, prompts)):
        return model
    processes = Processes()
    with processes.failing_as_one():
        if processes.is_main:
            _claim(out, prompts, overwrite=overwrite or resume)
        if kept:
            if processes.is_first_here:
                kept.fetch()
            processes.wait()
            if model := _finished(out, config, prompts):
                return model
        trainer = Trainer(config, prompts, out, processes, kept)
        if processes.is_main:
            # Again: loading took a while, and another run may have come.
            _claim(out, prompts, overwrite=overwrite or resume)
            if out.exists() and not resume:
                shutil.rmtree(out)
            out.mkdir(parents=True, exist_ok=True)
        processes.wait()
        return trainer.run()


def _claim(out: Path, prompts: Path, *, overwrite: bool) -> None:
    if claim(out, overwrite=overwrite, inputs=[prompts]).is_file():
        raise UserError(f"output {out}: is a file, and a model is a folder; give another place")


def _finished(out: Path, config: Config, prompts: Path) -> TunedModel | None:
    """The model in `out`, if it is what this run would make."""
    try:
        model, _ = open_tuned(out)
    except UserError:
        return None  # none, or damaged: the newest checkpoint makes it anew
    same = model.config_sha256 == config.sha256() and model.prompts == PromptSet.load(prompts)
    return model if same else None


class Trainer:
    """One run: everything it needs, loaded and in place."""

    def __init__(
        self, config: Config, prompts_folder: Path, out: Path, processes: Processes, mirror: Mirror | None = None
    ) -> None:
        quiet_libraries()
        self.config, self.out, self.processes, self.mirror = config, out, processes, mirror
        self.slots = processes.share(config.batch_size)
        self.prompts_folder, self.prompt_set = prompts_folder, PromptSet.load(prompts_folder)
        self.texts = [prompt.text for prompt in load_prompts(prompts_folder, "train")]
        if not self.texts:
            raise UserError(f"prompts {prompts_folder}: all are held out; prepare them again without --held-out")
        # Before anything heavy: a reward of your own is tried at once.
        self.reward = WeightedSum(config.rewards, antialias=config.reward_antialias)
        self.interrupts = Interrupts()
        self.stopped_by: signal.Signals | None = None
        self.reward_files: dict[str, str] = {}

        self.base = load_base(
            config.base_model,
            config.base_revision,
            precision=config.compute.precision,
            network_precision="fp32" if config.weights == "full" else None,
            height=config.height,
            width=config.width,
        )
        self.base.pipeline.to(processes.device)
        self.draws = Draws(config.seed, len(self.texts), config.batch_size, self.base.latents_shape)
        self.sampler = self.base.sampler(config.sampler)
        held_out = [prompt.text for prompt in load_prompts(prompts_folder, "eval")]
        self.samples = Samples(self.base, held_out, config, self.draws)
        self._encode_prompts()

        weights = open_weights(self.base, config, processes)
        self.base.prepare(config.compute)
        average = {name: weight.detach().clone() for name, weight in weights.items()} if config.ema_decay else {}
        self.state = TrainState(weights, average, make_optimizer(weights, config.optimizer))
        in_fp16 = config.compute.precision == "fp16"
        self.loss_scale = partial(scaled, weights=weights.values(), mean=processes.mean) if in_fp16 else unscaled
        self.checkpoints = Checkpoints(out / "checkpoints", config, self.prompt_set.sha256)

    def _encode_prompts(self) -> None:
        """Encode what this process will show to the network, and free the text encoders."""
        steps = range(1, self.config.steps + 1)
        shown = sorted({self.draws.prompt(step, slot) for step in steps for slot in self.slots})
        self.conditions = EncodedPrompts(self.base, {index: self.texts[index] for index in shown})
        self.negative = self.base.encode_negative(self.config.sampler.negative_prompt)
        self.base.free_text_encoders()

    # ------------------------------------------------------------------------------------------------------------------

    def run(self) -> TunedModel:
        """Resume if there is something to resume, update, and save."""
        done = self._restore()
        log = self._open_log(done) if self.processes.is_main else None
        with self.interrupts, log or nullcontext():
            step = self._tune(done, log)
        self._save_model(step, log)
        self._share_folder()
        return TunedModel.load(self.out)

    def _open_log(self, done: int) -> MetricLog:
        self.reward_files = keep_files(self.config.reward_names, self.out)
        (self.out / MANIFEST).unlink(missing_ok=True)  # of a model with fewer updates and another config.yaml
        write_text(self.out / CONFIG, self.config.to_yaml())
        return MetricLog(self.out, done, self.config)

    def _tune(self, done: int, log: MetricLog | None) -> int:
        """Update from `done` to the end, or to where the held-out reward fell; returns the update to be saved."""
        steps = self.config.steps
        if done == 0:
            self._sample(0, log)
            if self.config.held_out:
                self._save_checkpoint(0)
        for step in range(done + 1, steps + 1):
            metrics = self._update_or_save(step)
            sampled = step == steps or step % self.config.sample_every == 0
            if sampled:
                metrics = replace(metrics, held_out=self._sample(step, log))
            if log:
                log.write(metrics)
            if sampled and (passed := self._last_passed(step)) < step:
                self._share_folder()
                return self.checkpoints.restore(self.state, passed)
            due = step == steps or step % self.config.checkpoint_every == 0
            if due or self.stopped_by or (sampled and self.config.held_out):
                self._save_checkpoint(step)
            if self.stopped_by and step < steps:
                raise InterruptionError(
                    f"stopped by {self.stopped_by.name} after update {step} of {steps}, which is saved; "
                    f"go on with: {resume_command(self.out, self.prompts_folder)}",
                    self.stopped_by,
                )
        return steps

    def _update_or_save(self, step: int) -> UpdateMetrics:
        """The `step`-th update; if it would spoil the weights, the state before it is saved and the run ends."""
        try:
            return self.update(step)
        except DivergenceError:
            self._save_checkpoint(step - 1)
            raise

    # ------------------------------------------------------------------------------------------------------------------

    def update(self, step: int) -> UpdateMetrics:
        """The `step`-th optimizer update, from 1. All that it draws depends on the seed and on `step` alone."""
        started = time.monotonic()
        config = self.config
        plan = self.plan(step)
        at_once = config.compute.micro_batch_size or len(self.slots)
        starts = range(0, len(self.slots), at_once)
        rewards = torch.cat([self._supervise(step, self.slots[start : start + at_once], plan) for start in starts])
        self.processes.average_gradients(self.state.weights.values())
        grad_norm = torch.nn.utils.clip_grad_norm_(self.state.weights.values(), config.optimizer.max_grad_norm).item()
        parts = self.reward.take_means()
        told = rewards.new_tensor(self.interrupts.received is not None, dtype=rewards.dtype)
        reward, any_told, *means = self.processes.mean(torch.stack([rewards.mean(), told, *parts.values()])).tolist()
        if any_told:  # one process suffices, and all end after the same update
            self.stopped_by = self.interrupts.received or signal.SIGTERM
        check_finite(step, reward, grad_norm, config.optimizer)
        rate = learning_rate(config.optimizer, step, config.steps)
        self.state.step(rate, config.ema_decay)
        return UpdateMetrics(
            step=step,
            reward=reward,
            rewards=dict(zip(parts, means, strict=True)),
            grad_norm=grad_norm,
            learning_rate=rate,
            stop=plan.stop,
            trained=plan.trained,
            seconds=time.monotonic() - started,
        )

    def plan(self, step: int) -> Plan:
        """What the `step`-th update does."""
        return draw_plan(self.config.method, self.config.sampler.steps, generator_of(self.config.seed, "plan", step))

    def _supervise(self, step: int, slots: range, plan: Plan) -> Tensor:
        """Rewards (B,) of the pictures of some slots; their share of the gradient is added to `.grad`."""
        config = self.config
        chosen = [self.draws.prompt(step, slot) for slot in slots]
        prompts = [self.texts[index] for index in chosen]
        denoiser = GuidedDenoiser(
            self.base,
            self.conditions[chosen],
            self.negative,
            config.sampler,
            arithmetic=DTYPES[config.compute.precision],
        )
        price = config.base_penalty / len(plan.trained)
        task = Task(
            denoiser,
            self.sampler,
            rewards_of=lambda clean, rows: self.reward(self.base.decode(clean), prompts[rows]),
            draw_noise=lambda *key: self.draws.noise(step, slots, *key).to(self.processes.device),
            penalty=BasePenalty(denoiser, price) if price else None,
            compute=config.compute,
            gradient_scale=len(slots) / len(self.slots),
            loss_scale=self.loss_scale,
        )
        return supervise(task, config.method, plan)

    # ------------------------------------------------------------------------------------------------------------------

    def _sample(self, step: int, log: MetricLog | None) -> float | None:
        """Look at what would be saved now; returns the held-out reward, if the run has one.

        Every process makes all the samples: none could go on before the others, and a sharded network needs them all.
        """
        with self.state.averaged():
            images_NCHW = self.samples.draw()
        held_out = self.samples.score(images_NCHW)
        if held_out is not None:
            self.state.held_out[step] = self.processes.mean(held_out).item()
        if log:
            picture = grid(images_NCHW, columns=8)
            with replacing(self.out / "samples" / f"step-{step:06d}.png") as written:
                picture.save(written)
            log.samples(step, picture, self.state.held_out.get(step))
        return self.state.held_out.get(step)

    def _last_passed(self, step: int) -> int:
        """The last update that passed the held-out check, at most `step`; without such a check every one does."""
        return last_passed(self.state.held_out, self.config.held_out.max_drop) if self.config.held_out else step

    def _restore(self) -> int:
        """Number of updates that the newest checkpoint has seen, 0 without one."""
        done = self.checkpoints.restore(self.state)
        if self.processes.mean(torch.tensor(float(done), device=self.processes.device)).item() != done:
            raise UserError(
                f"output {self.out}: not every process finds the same checkpoints; put it where all nodes can read it"
            )
        if done > self.config.steps:
            raise UserError(f"steps={self.config.steps}: the run in {self.out} has done {done} already; give more")
        return done

    def _save_checkpoint(self, step: int) -> None:
        tensors = gather(self.state.tensors(), keep=self.processes.is_main)
        if self.processes.is_main:
            self.checkpoints.save(step, tensors, self.state.held_out, protected=self._last_passed(step))
            if self.mirror:
                self.mirror.push()
        self.processes.wait()  # a process that ended meanwhile would end the one that writes

    def _share_folder(self) -> None:
        """Wait for each other; with a mirror, let every node then have the folder as the first one has it."""
        if self.mirror and self.processes.is_main:
            self.mirror.push(must=True)
        self.processes.wait()
        if self.mirror and self.processes.is_first_here and not self.processes.is_main:
            self.mirror.fetch()
        self.processes.wait()

    def _save_model(self, step: int, log: MetricLog | None) -> None:
        """The weights, the summary, and last the manifest, which makes the folder a TunedModel."""
        with self.state.averaged():
            path = save_weights(self.base, self.config, self.processes, self.out)
        if log is None:
            return
        updates = log.updates
        model = TunedModel(
            weights=self.config.weights,
            weights_sha256=sha256_file(path),
            base_model=self.config.base_model,
            base_revision=self.config.base_revision,
            step=step,
            config_sha256=self.config.sha256(),
            prompts=self.prompt_set,
            code_revision=code_revision(),
            reward=mean_reward(updates[: max(step, 1)]),  # the first update is rewarded before it moves anything
            reward_files=self.reward_files,
        )
        page = summarise(model, self.config, updates, self.state.held_out, self.out, self.prompts_folder)
        if self.mirror:
            page = as_kept_at(self.mirror.storage.uri, page, self.out)
        write_text(self.out / SUMMARY, page)
        model.save(self.out)

"""A run: what is resumed, sampled, checked, saved and stopped around the updates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from drtune.config import Config
from drtune.contracts import CONFIG, MANIFEST, CurvePoint, TunedModel, curve_lines
from drtune.errors import InterruptionError, UserError
from drtune.files.charts import charts
from drtune.files.images import to_pil
from drtune.files.local import sha256_file, write_text
from drtune.files.progress import Progress
from drtune.files.provenance import code_revision
from drtune.prompts.prepare import PreparedPrompts
from drtune.rewards.files import keep_files
from drtune.training.checkpoint import FOLDER, Checkpoints
from drtune.training.history import UpdateMetrics, mean_reward
from drtune.training.metrics import MetricLog
from drtune.training.mirror import Mirror, as_kept_at
from drtune.training.optimization import DivergenceError, SpoiltWeightsError
from drtune.training.processes import Processes
from drtune.training.samples import Samples, last_passed
from drtune.training.summary import CHART, SUMMARY, resume_command, summarise
from drtune.training.update import Updates
from drtune.training.weights import save_weights


class Trainer(Updates):
    """One run: the updates, and what is saved, looked at and mirrored around them."""

    def __init__(
        self, config: Config, prompts: PreparedPrompts, out: Path, processes: Processes, mirror: Mirror | None = None
    ) -> None:
        super().__init__(config, prompts, out, processes)
        self.mirror = mirror
        self.reward_files: dict[str, str] = {}
        self.start_sha256 = self.start.sha256 if self.start else None
        self.pictures_sha256 = self.pictures.sha256 if self.pictures else None
        self.checkpoints = Checkpoints(
            out / FOLDER,
            config,
            prompts.prompt_set.sha256,
            processes,
            start_sha256=self.start_sha256,
            pictures_sha256=self.pictures_sha256,
        )

    def _encode_prompts(self) -> None:
        """Those of the samples first, while there are text encoders."""
        trained = [reward for reward, _ in self.reward.terms]
        self.samples = Samples(self.base, self.prompts.eval, self.config, trained)
        super()._encode_prompts()

    def run(self, place: Path | None = None, take_place: Callable[[], None] = lambda: None) -> TunedModel:
        """Resume if there is something to resume, update, and save.

        What stands at `out` stays as it is until the first update is made.

        Args:
            place: Where this run writes until then; None: at `out`, beside what stands there.
            take_place: Then moves that to `out`.
        """
        place, steps = place or self.out, self.config.steps
        self.checkpoints.folder = place / FOLDER
        done, log = self._restore(), None
        with self.interrupts, ExitStack() as held:
            if self.processes.is_main:
                self.reward_files = keep_files(self.config.reward_names, place)
                progress = held.enter_context(Progress("train", steps, "update", done=done))
            base_NCHW = self._look(0) if done == 0 else None
            if done == 0 and self.config.held_out:
                if self.processes.is_main:  # with the commit of the base, on which whoever takes it up goes on
                    write_text(place / CONFIG, self.config.to_yaml())
                self._save_checkpoint(0)
            first = replace(self.update(done + 1), resumed=done > 0) if done < steps else None
            take_place()
            self.processes.wait()
            self.checkpoints.folder = self.out / FOLDER
            if self.processes.is_main:
                log = held.enter_context(self._open_log(done, progress))
            if base_NCHW is not None:
                self._show(0, base_NCHW, log)
            step = self._tune(done, first, log)
        self._save_model(step, log)
        self._share_folder()
        return TunedModel.load(self.out)

    def _open_log(self, done: int, progress: Progress) -> MetricLog:
        (self.out / MANIFEST).unlink(missing_ok=True)  # of a model with fewer updates and another config.yaml
        write_text(self.out / CONFIG, self.config.to_yaml())
        return MetricLog(self.out, done, self.config, progress)

    def _tune(self, done: int, first: UpdateMetrics | None, log: MetricLog | None) -> int:
        """Update from `done` to the end, or to where the held-out reward fell; returns the update to be saved.

        The `first` of these updates is made already.
        """
        steps = self.config.steps
        for step in range(done + 1, steps + 1):
            metrics = first if first and first.step == step else self._update_or_save(step)
            sampled = step == steps or step % self.config.sample_every == 0
            if sampled:
                images_NCHW = self._look(step)
                metrics = replace(metrics, held_out=self.state.held_out.get(step))
                self._show(step, images_NCHW, log)
            if log:
                log.write(metrics)
            if sampled and (passed := self._last_passed(step)) < step:
                self._share_folder(checkpoints=True)
                return self.checkpoints.restore(self.state, passed)
            due = step == steps or step % self.config.checkpoint_every == 0
            if due or self.stopped_by or (sampled and self.config.held_out):
                self._save_checkpoint(step)
            if self.stopped_by and step < steps:
                mirrored = (f"--mirror={self.mirror.storage.uri}",) if self.mirror else ()
                raise InterruptionError(
                    f"stopped by {self.stopped_by.name} after update {step} of {steps}, which is saved; "
                    f"go on with: {resume_command(self.out, self.prompts.folder, *mirrored)}",
                    self.stopped_by,
                )
        return steps

    def _update_or_save(self, step: int) -> UpdateMetrics:
        """The `step`-th update; if it would spoil the weights, the state before it is saved and the run ends."""
        try:
            return self.update(step)
        except SpoiltWeightsError:
            raise
        except DivergenceError:
            self._save_checkpoint(step - 1)
            raise

    def _look(self, step: int) -> Tensor:
        """Images (N, 3, H, W) of what would be saved now; the run's held-out reward of them is kept in its state.

        Every process makes all of them: none could go on before the others, and a sharded network needs them all.
        """
        with self.state.averaged():
            images_NCHW = self.samples.draw()
        held_out = self.samples.held_out_reward(images_NCHW)
        if held_out is not None:
            self.state.held_out[step] = self.processes.mean(held_out).item()
        return images_NCHW

    def _show(self, step: int, images_NCHW: Tensor, log: MetricLog | None) -> None:
        """The first process judges the samples; the others wait, as the large judges take their time on the CPU."""
        if log:
            point = CurvePoint(step=step, rewards=self.samples.mean_rewards(images_NCHW))
            log.samples(point, to_pil(images_NCHW), self.samples.texts)
        self.processes.wait_for_main()

    def _last_passed(self, step: int) -> int:
        """The last update that passed the held-out check, at most `step`; without such a check every one does."""
        return last_passed(self.state.held_out, self.config.held_out.max_drop) if self.config.held_out else step

    def _restore(self) -> int:
        """Number of updates that the newest checkpoint has seen, 0 without one."""
        done = self.checkpoints.restore(self.state)
        if done > self.config.steps:
            raise UserError(f"steps={self.config.steps}: the run in {self.out} has done {done} already; give more")
        return done

    def _save_checkpoint(self, step: int) -> None:
        self.checkpoints.save(step, self.state, protected=self._last_passed(step))
        self._push(must=self.stopped_by is not None)
        self.processes.wait()  # a process that ended meanwhile would end the one that writes

    def _push(self, *, must: bool = False) -> None:
        """Every machine stores its shards of checkpoints; then, if all have, the first process stores the rest."""
        if self.mirror is None:
            return
        is_helping = self.processes.is_first_here and not self.processes.is_main
        stored = self.mirror.push_shards(must=must) if is_helping else True
        if all(self.processes.exchange(stored)) and self.processes.is_main:
            self.mirror.push(must=must)
        self.processes.wait_for_main()

    def _share_folder(self, *, checkpoints: bool = False) -> None:
        """Wait for each other; with a mirror, let every node then have the folder as the first one has it."""
        self._push(must=True)
        self.processes.wait()
        if self.mirror and self.processes.is_first_here and not self.processes.is_main:
            self.mirror.fetch(checkpoints=checkpoints)
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
            start_sha256=self.start_sha256,
            pictures_sha256=self.pictures_sha256,
            step=step,
            config_sha256=self.config.sha256(),
            prompts=self.prompts.prompt_set,
            code_revision=code_revision(),
            reward=mean_reward(updates[: max(step, 1)]),  # the first update is rewarded before it moves anything
            reward_files=self.reward_files,
        )
        points = log.points
        page = summarise(model, self.config, updates, points, self.state.held_out, self.out, self.prompts.folder)
        if lines := curve_lines(points):
            write_text(self.out / CHART, charts(lines))
        if self.mirror:
            page = as_kept_at(self.mirror.storage.uri, page, self.out)
        write_text(self.out / SUMMARY, page)
        model.save(self.out)

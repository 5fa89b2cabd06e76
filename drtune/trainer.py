"""The tuner: prompts in, an adapter out."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from drtune.checkpoint import TrainState
from drtune.config import Config, OptimizerConfig
from drtune.contracts import ADAPTER, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.files import claim, replacing, sha256_bytes, sha256_file, write_text
from drtune.images import grid
from drtune.methods import Plan, draw_plan
from drtune.metrics import MetricLog, UpdateMetrics
from drtune.model import (
    GuidedDenoiser,
    PromptEmbeds,
    add_adapter,
    decode,
    encode_prompts,
    load_pipeline,
    quiet_libraries,
    save_adapter,
)
from drtune.prompts import load_prompts
from drtune.provenance import code_revision
from drtune.rewards import WeightedSum
from drtune.sampling import ddim_scheduler, ddim_steps
from drtune.sweep import roll_out, score, sweep_back

NUM_SAMPLES = 16
CHECKPOINT = "checkpoint.safetensors"


def train(
    config: Config, prompts: str | Path, out: str | Path, *, resume: bool = False, overwrite: bool = False
) -> TunedModel:
    """Tune the base model on the training prompts of a PromptSet folder; write a TunedModel folder to `out`.

    Under torchrun every process calls this and takes its share of each batch. With `resume` the run in `out` goes on
    from its checkpoint and ends bit for bit as if it had never stopped; a finished run is left as it is.

    Raises:
        UserError: output that exists already, prompts or a checkpoint that do not fit, a training that diverges.

    >>> from drtune.config import load_config
    >>> model = train(load_config("configs/miniature.yaml", ["steps=80"]), "runs/prompts", "runs/model")
    """
    out = Path(out)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.is_main_process:
        claim(out, overwrite=overwrite or resume)
    trainer = Trainer(config, Path(prompts), out, accelerator)
    if accelerator.is_main_process:
        if out.exists() and not resume:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return trainer.run()


class Trainer:
    """One run: everything it needs, loaded and in place."""

    def __init__(self, config: Config, prompts_folder: Path, out: Path, accelerator: Accelerator) -> None:
        quiet_libraries()
        self.config, self.out, self.accelerator = config, out, accelerator
        self.prompt_set = PromptSet.load(prompts_folder)
        self.texts = [prompt.text for prompt in load_prompts(prompts_folder, "train")]
        self.sample_texts = [prompt.text for prompt in load_prompts(prompts_folder, "eval")[:NUM_SAMPLES]]

        self.pipeline = load_pipeline(config.base_model, config.base_revision).to(accelerator.device)
        self.embeds, self.empty = encode_prompts(self.pipeline, self.texts)
        self.sample_embeds, _ = encode_prompts(self.pipeline, self.sample_texts)
        self.pipeline.text_encoder = self.pipeline.text_encoder_2 = None  # every prompt is encoded: free their memory
        scheduler = ddim_scheduler(self.pipeline.scheduler.config)
        self.sampler = ddim_steps(scheduler, config.sampler.steps)
        self.deployment_sampler = ddim_steps(scheduler, config.evaluation.sampler.steps)
        self.reward = WeightedSum(config.rewards)

        weights = add_adapter(self.pipeline.unet, config.lora, config.seed)
        average = {name: weight.detach().clone() for name, weight in weights.items()} if config.ema_decay else {}
        self.state = TrainState(weights, average, _make_optimizer(weights, config.optimizer))

    def run(self) -> TunedModel:
        """Resume if there is something to resume, update, and save."""
        if not self.accelerator.is_main_process:
            self._update_all(self._restore(), log=lambda _metrics: None)
        else:
            start = self._restore()
            write_text(self.out / "config.yaml", self.config.to_yaml())
            with MetricLog(self.out, start, self.config.steps) as log:
                self._update_all(start, log.write)
                self._save_model(log.running_reward)
        self.accelerator.wait_for_everyone()
        return TunedModel.load(self.out)

    def _update_all(self, done: int, log: Callable[[UpdateMetrics], None]) -> None:
        if done == 0:
            self._save_samples(0)
        for step in range(done + 1, self.config.steps + 1):
            log(self.update(step))
            last = step == self.config.steps
            if last or step % self.config.sample_every == 0:
                self._save_samples(step)
            if last or step % self.config.checkpoint_every == 0:
                self._save_checkpoint(step)

    # ------------------------------------------------------------------------------------------------------------------

    def update(self, step: int) -> UpdateMetrics:
        """The `step`-th optimizer update, from 1. All that it draws depends on the seed and on `step` alone."""
        started = time.monotonic()
        config = self.config
        slots = self._my_slots()
        chosen = [self._prompt_of(step, slot) for slot in slots]
        noise = torch.stack([self._noise(step, slot) for slot in slots])
        plan = draw_plan(config.method, config.sampler.steps, generator_of(config.seed, "plan", step))
        denoiser = self._denoiser(self.embeds[chosen], config.sampler.guidance_scale)

        rollout = roll_out(denoiser, self.sampler, noise, plan)
        prompts = [self.texts[index] for index in chosen]
        rewards, gradient = score(lambda clean: self.reward(decode(self.pipeline, clean), prompts), rollout.clean_BCHW)
        sweep_back(denoiser, self.sampler, rollout, gradient, plan)

        self._average_gradients()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.state.weights.values(), config.optimizer.max_grad_norm).item()
        means = self._mean_of_processes(torch.stack([rewards.mean(), *self.reward.means.values()])).tolist()
        reward, parts = means[0], dict(zip(self.reward.means, means[1:], strict=True))
        check_finite(step, reward, grad_norm, config.optimizer.learning_rate)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        for name, average in self.state.average.items():
            average.lerp_(self.state.weights[name].detach(), 1 - config.ema_decay)
        seconds = time.monotonic() - started
        return UpdateMetrics(step, reward, parts, grad_norm, plan.stop, plan.trained, seconds)

    # ------------------------------------------------------------------------------------------------------------------

    def _my_slots(self) -> range:
        """The places in the batch that this process fills."""
        share = self.config.batch_size // self.accelerator.num_processes
        return range(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)

    def _prompt_of(self, step: int, slot: int) -> int:
        """Index of the prompt: every epoch goes through all prompts in an order of its own."""
        epoch, place = divmod((step - 1) * self.config.batch_size + slot, len(self.texts))
        return _shuffled(self.config.seed, epoch, len(self.texts))[place]

    def _noise(self, step: int, slot: int) -> Tensor:
        """Initial latents (C, H, W) of one picture, the same on whatever process and device it is made."""
        unet, device = self.pipeline.unet.config, self.accelerator.device
        shape = (unet.in_channels, unet.sample_size, unet.sample_size)
        return torch.randn(shape, generator=generator_of(self.config.seed, "noise", step, slot)).to(device)

    def _denoiser(self, embeds: PromptEmbeds, guidance_scale: float) -> GuidedDenoiser:
        size = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return GuidedDenoiser(self.pipeline.unet, embeds, self.empty, guidance_scale, size)

    def _mean_of_processes(self, tensor: Tensor) -> Tensor:
        mean: Tensor = self.accelerator.reduce(tensor, "mean")
        return mean

    def _average_gradients(self) -> None:
        """One all-reduce an update over all gradients laid end to end."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [weight.grad for weight in self.state.weights.values() if weight.grad is not None]
        flat = self._mean_of_processes(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    # ------------------------------------------------------------------------------------------------------------------

    def _restore(self) -> int:
        """Number of updates that the checkpoint has seen, 0 without one."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return 0
        done = self.state.restore(path, config=self.config, prompts_sha256=self.prompt_set.sha256)
        if done > self.config.steps:
            raise UserError(f"steps={self.config.steps}: the run in {self.out} has done {done} already; give more")
        return done

    def _save_checkpoint(self, step: int) -> None:
        if self.accelerator.is_main_process:
            self.state.save(self.out / CHECKPOINT, step=step, config=self.config, prompts_sha256=self.prompt_set.sha256)

    @torch.no_grad()
    def _save_samples(self, step: int) -> None:
        """The same held-out prompts and noise each time, at deployment settings."""
        if not self.accelerator.is_main_process:
            return
        settings = self.config.evaluation.sampler
        noise = torch.stack([self._noise(0, slot) for slot in range(len(self.sample_texts))])
        whole = Plan(stop=settings.steps - 1, trained=(), alpha=0.0)
        denoiser = self._denoiser(self.sample_embeds, settings.guidance_scale)
        rollout = roll_out(denoiser, self.deployment_sampler, noise, whole)
        with replacing(self.out / "samples" / f"step-{step:06d}.png") as written:
            grid(decode(self.pipeline, rollout.clean_BCHW), columns=8).save(written)

    def _save_model(self, reward: float) -> None:
        """The adapter, and last its manifest, which makes the folder a TunedModel."""
        with torch.no_grad():
            for name, average in self.state.average.items():
                self.state.weights[name].copy_(average)
        with replacing(self.out / "adapter") as written:
            save_adapter(self.pipeline.unet, written)
        TunedModel(
            adapter_sha256=sha256_file(self.out / ADAPTER),
            base_model=self.config.base_model,
            base_revision=self.config.base_revision,
            step=self.config.steps,
            config_sha256=self.config.sha256(),
            prompts=self.prompt_set,
            code_revision=code_revision(),
            reward=reward,
        ).save(self.out)


def _make_optimizer(weights: Mapping[str, Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def check_finite(step: int, reward: float, grad_norm: float, learning_rate: float) -> None:
    """Refuse an update that would spoil the weights, before the optimizer moves.

    Raises:
        UserError: reward or gradient is infinite or not a number.
    """
    if not (math.isfinite(reward) and math.isfinite(grad_norm)):
        raise UserError(
            f"update {step}: reward {reward:g}, gradient norm {grad_norm:g}; the weights were left as they were: "
            f"lower optimizer.learning_rate={learning_rate:g}"
        )


def generator_of(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone: the same on every process, machine and resumed run."""
    return torch.Generator().manual_seed(int(sha256_bytes(repr(key).encode())[:15], 16))


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=generator_of(seed, "order", epoch)).tolist()
    return order

"""The configuration tree: every default of drtune stands here, once. Files and `--set` hold differences only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from drtune.config.evaluation import MOST_TASKS, CapabilityConfig, ScaleCurveConfig
from drtune.config.possible import check_batches, check_method, check_weights, size
from drtune.config.rewards import NON_DIFFERENTIABLE, PROMPTLESS, PublishedName, RewardName, RewardTerm
from drtune.config.sections import Section
from drtune.files.local import sha256_bytes

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of things that are made or gone through one by one; more is a slip of the hand, and would never end."""


AT_ONCE = 4096
"""Pictures that one process may sample or measure at once; no memory holds more of them, of the smallest base."""

MOST_SAMPLES = 64
"""Prompts that are drawn on the way."""


class SamplerConfig(Section):
    """How images are sampled."""

    steps: int = Field(default=12, ge=1, le=1000)
    """T, the sampler steps from noise to image."""
    guidance_scale: float = Field(default=1.0, ge=1.0)
    """Classifier-free guidance, 1 is off and halves the cost. FLUX.1-dev is told it, FLUX.1-schnell has none.

    Z-Image's own number is one less."""
    negative_prompt: str = ""
    """What guidance leads away from; without guidance it is not used."""


class DeploymentSamplerConfig(SamplerConfig):
    """How images are sampled by those who will use the model."""

    guidance_scale: float = Field(default=3.0, ge=1.0)
    """Classifier-free guidance with which pictures will be made, 1 is off."""
    base_steps: int = Field(default=0, ge=0)
    """So many of the first steps are the base's, before the adapter is put on: less drift, less gain (ImageReFL)."""

    @model_validator(mode="after")
    def _some_steps_are_left(self) -> Self:
        if self.base_steps >= self.steps:
            raise ValueError(f"base_steps={self.base_steps} leaves none of steps={self.steps}: give less")
        return self


class TuningSamplerConfig(SamplerConfig):
    """How images are sampled while tuning."""

    name: Literal["ddim", "euler", "flow_euler"] | None = None
    """null: DDIM on a noise schedule, flow-match Euler on a flow."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """Fresh noise at each DDIM step: 0 is deterministic, 1 is ancestral sampling."""
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    """How far guided output is scaled back to the deviation of the conditional one (Lin et al. 2023, section 3.4)."""
    guidance_gradient: Literal["both", "conditional"] = "both"
    """Whether the gradient passes through both branches of guidance or through the conditional one alone."""


Weighting = Literal["chain", "uniform", "signal"]
Surplus = Annotated[float, Field(ge=0)]


class MethodConfig(Section):
    """How the reward's gradient reaches the network (docs/method.md has a table of the methods)."""

    name: Literal[
        "drtune",
        "refl",
        "draft_k",
        "draft_lv",
        "alignprop",
        "full",
        "leapalign",
        "flowbp_sparse",
        "flowbp_bridge",
        "flowbp_lagrange",
        "direct_align",
        "srpo",
    ] = "drtune"
    """Which steps train, and where sampling stops."""
    trained_steps: int = Field(default=4, ge=1)
    """K, the steps that carry gradient: equally spaced in drtune, the last ones in draft_k, at most so many in
    alignprop, drawn in flowbp_sparse and flowbp_bridge."""
    placement: Literal["prefix", "chain"] = "prefix"
    """Where drtune spreads its K steps: over those that run, or over all T, of which an early stop cuts some off."""
    early_stop: int = Field(default=3, ge=1)
    """m: drtune and refl stop at one of the last m steps, direct_align and srpo re-noise to one of m before those that
    they cannot."""
    recoveries: Count = 1
    """n: to how many steps of these m, in a row, direct_align and srpo re-noise the image."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What each of these m counts there, against the step before it: below 1 the late ones count less."""
    praise_surplus: tuple[Surplus, Surplus] = (0.1, 0.25)
    """How far above 1 srpo counts the praised prompt of a relative reward: at the last of these m, and at the first."""
    blame_surplus: tuple[Surplus, Surplus] = (0.3, 0.01)
    """How far above 1 it counts the blamed prompt in the way back, which seeks what is blamed."""
    pictures: str | None = Field(default=None, min_length=1)
    """Real pictures of all prompts to train on, from which direct_align and srpo start in place of sampled ones: a
    folder with a manifest, an archive, or s3://bucket/prefix, as a reference is (docs/evaluation.md)."""
    renoised: Count = 2
    """n: how many times draft_lv re-noises the image for its last step."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """How much gradient passes through the network's input, 0 detaches it; null: as the method is published."""
    rescale: float | None = Field(default=None, ge=0)
    """How far the trained steps of FlowBP stand in for all: 0 not at all, 1 by the whole weight; null: as published."""
    tau: float | None = Field(default=None, ge=0)
    """Least miss of a leap by which leapalign and flowbp_lagrange weigh a picture, 0: all alike; null: as published."""
    weighting: Weighting = "chain"
    """What a step's output is owed: its weight in the chain, as much for each, or as the signal in what it sees."""
    rho: float = Field(default=0.0, ge=0)
    """How far clean latents are moved against the reward before its gradient is taken there, so that what is sharp in
    it counts less: the root mean square of the move, 0: none."""
    weight_rho: float = Field(default=0.0, ge=0)
    """How far weights are moved against the reward before an update's gradient is taken there (SAM), which makes every
    update twice: the length of the move over all that train, 0: none."""


FRESH = ("zeros", "gaussian")
"""Starts of an adapter that are no file."""


class LoraSection(Section):
    """The adapter on the denoiser."""

    rank: int = Field(default=8, ge=1)
    """Of the two matrices that are added to each layer: how much the adapter can learn, and its size."""
    alpha: float = Field(default=8.0, gt=0)
    """The update is scaled by alpha / rank."""
    init: str = Field(default="zeros", min_length=1)
    """Its start: `zeros` and `gaussian` have no effect at first, their inner matrix is Kaiming-uniform as in peft, or
    Gaussian; else an adapter: the folder of a run, a file of diffusers or kohya, or s3://bucket/key."""
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the layers that get an adapter, matched by the end of the module's name; null: as the base has them."""


class OptimizerConfig(Section):
    """AdamW."""

    learning_rate: float = Field(default=2e-4, gt=0)
    """Of AdamW, after the warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; a cosine falls towards zero, to reach it after the last update."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises from zero."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Share of the weights that an update takes off, times the learning rate."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm: the random offset changes its size from one update to the next."""
    refused_grad_norm: float = Field(default=1e6, gt=0)
    """A gradient beyond this norm has exploded: the run stops before the weights move."""
    eight_bit: bool = False
    """AdamW's moments in 8 bits each in place of 32, by bitsandbytes: it pays with weights=full, in one process."""


class ComputeSection(Section):
    """What trades time for memory, and precision for both."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the frozen weights and of the network's arithmetic; what trains is kept in fp32."""
    quantization: Literal["nf4", "int8", "fp8"] | None = None
    """Of the frozen weights in the network's blocks, while tuning: 4 bits each in place of 16, by bitsandbytes, or 8.
    The evaluation draws with the network as it is published."""
    micro_batch_size: int | None = Field(default=None, ge=1, le=AT_ONCE)
    """Pictures at once in one process where there is a graph; null: the process's whole share of the batch."""
    rollout_batch_size: int | None = Field(default=None, ge=1, le=AT_ONCE)
    """Pictures sampled at once in one process, which takes no graph; null: its whole share, or a micro-batch
    where graphs are kept, since they are made there."""
    decode_batch_size: int | None = Field(default=None, ge=1)
    """Pictures decoded and scored at once; null: the whole micro-batch."""
    replay_batch: int = Field(default=1, ge=1)
    """Trained steps that share one forward, where the input is detached: faster on a large GPU, so many more graphs."""
    keep_graphs: int = Field(default=0, ge=0)
    """Trained steps whose graph is kept from the roll-out instead of being run again: faster, one more graph each."""
    gradient_checkpointing: bool = False
    """Recompute the blocks of network and VAE in the backward pass: less memory, more time."""
    compile: bool = False
    """torch.compile the network: slow to start, then faster."""

    def micro_batch(self, share: int) -> int:
        """Pictures at once where there is a graph, of a process that has so many of the batch."""
        return min(self.micro_batch_size or share, share)

    def rollout_batch(self, share: int) -> int:
        """Pictures sampled at once, of a process that has so many of the batch."""
        return min(self.rollout_batch_size or (self.micro_batch(share) if self.keep_graphs else share), share)


class HeldOut(Section):
    """A reward that is not trained on ends the run when it falls."""

    reward: RewardName
    """Which is watched; it is not trained on."""
    max_drop: float = Field(ge=0)
    """Largest fall of its mean from where tuning begins (the base, or the adapter of `lora.init`), on the sample
    prompts; checked every `sample_every` updates."""


class EvaluationConfig(Section):
    """How the tuned model is compared with its base and others."""

    rewards: tuple[RewardName, ...] = ("symmetry", "preference", "compressibility", "brightness")
    """What is measured beside the rewards that are tuned on."""
    max_prompts: Count = 192
    """At most so many held-out prompts, the first of each category in turn."""
    pictures_per_prompt: int = Field(default=2, ge=1, le=1000)
    """Each from noise of its own; with one alone the diversity within a prompt is not measured."""
    features: Literal["auto", "preference", "clipscore", "dinov2", "dreamsim", "none"] = "auto"
    """Whose image embeddings diversity and drift are measured in; auto: the reward `preference`'s for the miniature,
    DINOv2's, which is no reward, for every other base, or none where its weights are not to be had. `dreamsim`, fitted
    to what people find alike, needs its adapter by `reward_checkpoints.dreamsim`."""
    sampler: DeploymentSamplerConfig = DeploymentSamplerConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the noise that all models draw from."""
    batch_size: int = Field(default=32, ge=1, le=AT_ONCE)
    """Pictures drawn and measured at once."""
    scale_curve: ScaleCurveConfig = ScaleCurveConfig()
    capability: CapabilityConfig = CapabilityConfig()


class Config(Section):
    """One run: what is tuned, on which reward, how, and how it is evaluated."""

    base_model: str = "miniature"
    """`miniature`, a hub id such as `stabilityai/stable-diffusion-xl-base-1.0`, or a local folder."""
    base_revision: str | None = None
    """Branch, tag or commit of a hub id; null: its main branch. A run records the commit with which it begins, and goes
    on with no other, wherever a branch or tag is by then. A local folder and the miniature have none."""
    height: int | None = Field(default=None, ge=8)
    """Of the images, in pixels; null: the base's own."""
    width: int | None = Field(default=None, ge=8)
    """Of the images, in pixels; null: the base's own."""
    other_sizes: tuple[Annotated[str, AfterValidator(size)], ...] = ()
    """Sizes such as 1216x832, width first, that take turns with width x height (aspect buckets): every update is made
    in the next one, so that a batch is of one size. Samples and the evaluation are drawn at width x height."""
    weights: Literal["lora", "full"] = "lora"
    """What trains: an adapter, or every weight of the denoiser."""
    rewards: dict[RewardName, RewardTerm] = Field(default={"symmetry": RewardTerm()})
    """The sum that is maximised: for each reward its weight, or its weight and how it is bent."""
    reward_antialias: bool = True
    """Whether rewards resize with antialias: all of them in tuning; of finished pictures those of `hps`, `hps_v2`,
    `arniqa` and `preference` alone, since the others see them resized by Pillow, which always has it. Scores with and
    without do not compare."""
    reward_checkpoints: dict[PublishedName, Annotated[str, Field(min_length=1)]] = Field(default={})
    """By reward a file or folder with weights of yours in place of the published ones, in their layout; wherever the
    reward stands: tuned on, held out or measured; and the folder of `dreamsim`'s adapter."""
    base_penalty: float = Field(default=0.0, ge=0)
    """Weight of the mean squared distance of the denoiser's outputs from those of the base, at the trained steps."""
    steps: Count = 80
    """Optimizer updates."""
    batch_size: Count = 8
    """Prompts an update, over all processes together."""
    processes: Count | None = None
    """Data-parallel processes on this machine; null: for a LoRA on the miniature, without a GPU, as many as there are
    cores, else 1. A run keeps its number when it is resumed."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of all that is drawn by lot: prompts, noise, the adapter's start and where sampling stops."""
    sampler: TuningSamplerConfig = TuningSamplerConfig()
    method: MethodConfig = MethodConfig()
    lora: LoraSection = LoraSection()
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeSection = ComputeSection()
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the running mean of the weights that is saved; 0 saves the weights themselves. At the n-th update it is
    at most n / (n + 9), so that a short run does not save its start."""
    held_out: HeldOut | None = None
    checkpoint_every: int = Field(default=20, ge=1)
    """Updates between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many are kept, and the last that passed the held-out check."""
    sample_every: int = Field(default=20, ge=1)
    """Updates between samples, which all rewards judge, and between checks of the held-out reward."""
    sample_prompts: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=MOST_SAMPLES)
    """Which are drawn on the way, from the same noise each time; null: the evaluation's first 16."""
    wandb_project: str | None = None
    """Log to this project of Weights & Biases as well, which must be installed."""
    mlflow_experiment: str | None = None
    """Log to this experiment of MLflow as well, at MLFLOW_TRACKING_URI; it must be installed."""
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_method(self.method, self.sampler.steps)
        if self.sampler.eta and self.sampler.name not in (None, "ddim"):
            raise ValueError(f"sampler.eta={self.sampler.eta} needs sampler.name=ddim, not {self.sampler.name}")
        if self.processes and self.batch_size % self.processes:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared evenly by processes={self.processes}: "
                f"give a multiple of {self.processes}"
            )
        check_batches(self.compute, self.batch_size, self.process_count, AT_ONCE)
        if self.base_model == "miniature" and self.base_revision is not None:
            raise ValueError(
                f"base_revision={self.base_revision!r} is for a hub id, and base_model=miniature has none: leave it out"
            )
        if self.evaluation.features == "dreamsim" and "dreamsim" not in self.reward_checkpoints:
            raise ValueError(
                "evaluation.features=dreamsim needs reward_checkpoints.dreamsim: the folder of its adapter, which its "
                "authors have on GitHub (docs/evaluation.md)"
            )
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one, as in rewards.symmetry=1.0")
        if self.held_out and self.held_out.reward in self.rewards:
            raise ValueError(
                f"held_out.reward={self.held_out.reward} is tuned on, and cannot watch what that does: give a reward "
                "that does not stand in rewards"
            )
        for name in NON_DIFFERENTIABLE:
            if name in self.rewards:
                raise ValueError(
                    f"rewards.{name} has no gradient and cannot be tuned on: name it in evaluation.rewards instead"
                )
        for name in PROMPTLESS:
            if name in self.rewards and self.rewards[name].praise is not None:
                raise ValueError(f"rewards.{name} does not read the prompt: praise and blame would cancel out")
        check_weights(self)
        return self

    @property
    def start(self) -> str | None:
        """The adapter that tuning begins from; None: from the base as it is."""
        return None if self.weights == "full" or self.lora.init in FRESH else self.lora.init

    @property
    def scale_prompts(self) -> int:
        """Prompts that are drawn at other strengths of the adapter."""
        automatic = 32 if self.base_model == "miniature" else 0
        return automatic if self.evaluation.scale_curve.prompts is None else self.evaluation.scale_curve.prompts

    @property
    def capability_prompts(self) -> int:
        """Compositional prompts that base and candidate are held against, at most."""
        asked = self.evaluation.capability
        automatic = MOST_TASKS if asked.file else 48 if self.base_model == "miniature" else 0
        return automatic if asked.prompts is None else asked.prompts

    @property
    def process_count(self) -> int:
        """The processes of a run that is started without choosing their number."""
        return self.processes or 1

    @property
    def trained_on(self) -> list[str]:
        """Every reward that the run itself uses."""
        return [*self.rewards, *([self.held_out.reward] if self.held_out else [])]

    @property
    def measured_rewards(self) -> list[str]:
        """Every reward that the evaluation measures, each once."""
        return list(dict.fromkeys([*self.rewards, *self.evaluation.rewards]))

    @property
    def reward_names(self) -> list[str]:
        """Every reward that the run or its evaluation uses, each once."""
        return list(dict.fromkeys([*self.trained_on, *self.evaluation.rewards]))

    def to_yaml(self) -> str:
        """The whole resolved tree as YAML; `load_config` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def sha256(self) -> str:
        """Digest of the resolved tree."""
        return sha256_bytes(self.to_yaml().encode())

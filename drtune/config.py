"""The configuration tree: every default of drtune stands here, once. Files and `--set` hold differences only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drtune.errors import UserError
from drtune.files import sha256_bytes

RewardName = Literal["symmetry", "compressibility", "brightness", "preference"]


class Section(BaseModel):
    """A part of the tree: frozen, with unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class SamplerConfig(Section):
    """How images are sampled while tuning (DDIM, eta 0)."""

    steps: int = Field(default=12, ge=1, le=1000)
    """T, the sampler steps from noise to image."""
    guidance_scale: float = Field(default=1.0, ge=1.0)
    """Classifier-free guidance in training; 1 is off and halves the cost."""


class MethodConfig(Section):
    """How the reward's gradient reaches the network (docs/method.md)."""

    name: Literal["drtune", "full"] = "drtune"
    trained_steps: int = Field(default=4, ge=1)
    """K, the equally spaced steps that carry gradient. `full` trains every step and reads neither K nor m."""
    early_stop: int = Field(default=3, ge=1)
    """m: sampling stops at a step drawn from the last m, and the clean image is predicted in one jump."""


class LoraSection(Section):
    """The adapter on the denoiser."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "proj_in",
        "proj_out",
        "ff.net.0.proj",
        "ff.net.2",
        "conv1",
        "conv2",
        "conv_shortcut",
        "time_emb_proj",
    )
    """Names of the layers that get an adapter, as peft matches them: by the end of the module's name."""


class OptimizerConfig(Section):
    """AdamW."""

    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm: the random offset changes its size from one update to the next."""


class EvaluationConfig(Section):
    """How the tuned model is compared with its base."""

    rewards: tuple[RewardName, ...] = ("symmetry", "preference", "compressibility", "brightness")
    max_prompts: int = Field(default=192, ge=1)
    """At most so many held-out prompts, the first of each category in turn."""
    sampler: SamplerConfig = SamplerConfig(steps=12, guidance_scale=3.0)
    """Deployment settings: pictures as users will make them."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=1)


class Config(Section):
    """One run: what is tuned, on which reward, how, and how it is evaluated."""

    base_model: str = "miniature"
    """`miniature`, a hub id such as `stabilityai/stable-diffusion-xl-base-1.0`, or a local folder."""
    base_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    rewards: dict[RewardName, float] = {"symmetry": 1.0}
    """Weight of each reward in the sum that is maximised."""
    steps: int = Field(default=80, ge=1)
    """Optimizer updates."""
    batch_size: int = Field(default=8, ge=1)
    """Prompts an update, over all processes together."""
    processes: int = Field(default=1, ge=1)
    """Data-parallel processes on this machine."""
    seed: int = Field(default=0, ge=0)
    sampler: SamplerConfig = SamplerConfig()
    method: MethodConfig = MethodConfig()
    lora: LoraSection = LoraSection()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the running mean of the adapter that is saved; 0 saves the adapter itself."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Updates between checkpoints."""
    sample_every: int = Field(default=20, ge=1)
    """Updates between grids of samples."""
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        steps, method = self.sampler.steps, self.method
        if method.name == "drtune":
            if method.trained_steps > steps:
                raise ValueError(
                    f"method.trained_steps={method.trained_steps} is more than sampler.steps={steps}: "
                    f"give at most {steps}"
                )
            if method.early_stop > steps:
                raise ValueError(
                    f"method.early_stop={method.early_stop} is more than sampler.steps={steps}: give at most {steps}"
                )
            if (executed := steps - method.early_stop + 1) < method.trained_steps:
                raise ValueError(
                    f"method.trained_steps={method.trained_steps} does not fit into the {executed} steps that are "
                    f"always executed (sampler.steps={steps} less method.early_stop={method.early_stop} plus 1): "
                    f"lower one of the two"
                )
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared evenly by processes={self.processes}: "
                f"give a multiple of {self.processes}"
            )
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one, as in rewards.symmetry=1.0")
        return self

    def to_yaml(self) -> str:
        """The whole resolved tree as YAML; `load_config` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def sha256(self) -> str:
        """Digest of the resolved tree."""
        return sha256_bytes(self.to_yaml().encode())

    def differences(self, other: Config) -> list[str]:
        """Dotted keys in which two configurations differ, each with both values."""
        mine, theirs = _flatten(self.model_dump(mode="json")), _flatten(other.model_dump(mode="json"))
        return [
            f"{key} ({mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there)"
            for key in sorted(mine | theirs)
            if mine.get(key) != theirs.get(key)
        ]


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, overlaid by a YAML file, overlaid by dotted `key=value` strings, validated as a whole.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value has the wrong type, or the whole is impossible.

    >>> load_config(None, ["steps=20", "method.trained_steps=2"]).method.trained_steps
    2
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_one_line(problem) for problem in error.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"config {path}: holds {type(tree).__name__}, wanted keys with values")
    return tree or {}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r}: wanted key=value, as in --set steps=80")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value") from None
    *parents, last = key.split(".")
    for parent in parents:
        branch = tree.setdefault(parent, {})
        if not isinstance(branch, dict):
            raise UserError(f"--set {override!r}: {parent} is a single value and has no {last}")
        tree = branch
    tree[last] = value


def _one_line(problem: Any) -> str:
    """A pydantic error as one line: the key, what is wrong, the value that was given."""
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key; the keys are {', '.join(_keys_beside(problem['loc']))}"
    if problem["loc"][-1:] == ("[key]",):
        return f"rewards: no reward {problem['input']!r}; there are {', '.join(get_args(RewardName))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}={problem['input']!r}: {message}" if key else message


def _keys_beside(loc: Sequence[str | int]) -> list[str]:
    """The legal keys of the section in which an unknown key was found."""
    section: type[BaseModel] = Config
    for name in loc[:-1]:
        kind = section.model_fields[str(name)].annotation
        assert isinstance(kind, type)
        section = kind
    return list(section.model_fields)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

"""What travels between the steps: small frozen values, each kept as `manifest.json` in the folder of its payload.

    prepare_prompts -> PromptSet -> train -> TunedModel -> evaluate -> EvaluationReport
                    -> decide -> Decision -> publish -> RegistryEntry

Every value names the digests of what it came from, so that any published file can be followed back to its prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.errors import UserError
from drtune.files import write_text

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
"""Where a TunedModel keeps a LoRA, under the name by which diffusers finds it."""
NETWORK = "network/diffusion_pytorch_model.safetensors"
"""Where it keeps full weights, likewise; with NETWORK_CONFIG beside them, diffusers loads the folder."""
NETWORK_CONFIG = "network/config.json"


class Contract(BaseModel):
    """A frozen value that is written as JSON and read back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def manifest(self) -> str:
        """The text of `manifest.json`; equal values have equal text."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_text(Path(folder) / MANIFEST, self.manifest())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `manifest.json` from `folder`.

        Raises:
            UserError: there is none, or it is not one of this kind and version.
        """
        path = Path(folder) / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: no {cls.__name__} to read here ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: not a {cls.__name__} of this version of drtune: {where}: {first['msg']}"
            ) from None


class DataSource(Contract):
    """Where prompts came from.

    >>> DataSource(path="data/sdxl.jsonl", sha256="9f2c...", git_revision="4a1b...", dvc_md5="d751...dir")
    """

    path: str
    sha256: str
    git_revision: str | None = None
    """Commit whose data.dvc was read; None outside of version control."""
    dvc_md5: str | None = None
    """The md5 that data.dvc states and that the files were checked against; None for a file not under DVC."""


class PromptSet(Contract):
    """Prompts, split once and for all: `prompts.jsonl` with one {"text", "category", "split"} a line.

    >>> PromptSet(sha256="1c3e...", num_train=2000, num_eval=400, categories={"anime": 600, "photo": 600},
    ...           problems={"empty": 2}, source=DataSource(path="data/sdxl.jsonl", sha256="9f2c..."))
    """

    kind: Literal["PromptSet/1"] = "PromptSet/1"
    sha256: str
    """Digest of prompts.jsonl."""
    num_train: int
    num_eval: int
    categories: dict[str, int]
    """Number of prompts of each category, train and eval together; prompts without one count as ""."""
    problems: dict[str, int]
    """How many lines of the source were not taken, by reason; each stands in `problems.jsonl`."""
    source: DataSource


class TunedModel(Contract):
    """A LoRA for a base model, or all weights of its network, in diffusers' format, and `config.yaml`.

    >>> TunedModel(weights_sha256="77ab...", base_model="miniature", base_revision=None, step=80,
    ...            config_sha256="0b1d...", prompts=PromptSet(...), code_revision="4a1b...", reward=0.83)
    """

    kind: Literal["TunedModel/1"] = "TunedModel/1"
    weights: Literal["lora", "full"] = "lora"
    weights_sha256: str
    """Digest of the weights' file."""
    base_model: str
    base_revision: str | None
    step: int
    """Optimizer updates done."""
    config_sha256: str
    """Digest of config.yaml."""
    prompts: PromptSet
    code_revision: str | None
    """Commit of the code that tuned; None when it cannot be known."""
    reward: float
    """Mean training reward over the last ten updates."""
    reward_files: dict[str, str] = {}
    """Files of your own rewards that are kept in the folder: sha256 by path."""

    @property
    def weights_file(self) -> str:
        """Path of the safetensors file with the weights, inside the model's folder."""
        return ADAPTER if self.weights == "lora" else NETWORK

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files of the model beside its manifest."""
        weights = (ADAPTER,) if self.weights == "lora" else (NETWORK, NETWORK_CONFIG)
        return (CONFIG, *weights, *self.reward_files)


class Score(Contract):
    """One reward of base and candidate on the same prompts and seeds; intervals are 95 % bootstrap.

    >>> Score(reward="symmetry", category=None, num_prompts=256, base_mean=0.56, candidate_mean=0.83,
    ...       gain=0.27, gain_low=0.25, gain_high=0.29, win_rate=0.95, win_low=0.92, win_high=0.97)
    """

    reward: str
    category: str | None
    """None: over all prompts."""
    num_prompts: int
    base_mean: float
    candidate_mean: float
    gain: float
    """Mean of candidate minus base, paired by prompt and seed."""
    gain_low: float
    gain_high: float
    win_rate: float
    """Fraction of prompts on which the candidate scores higher; a tie counts one half. In [0, 1]."""
    win_low: float
    win_high: float


class EvaluationReport(Contract):
    """Base against candidate: `report.html`, `scores.parquet` (one row a prompt and reward) and `images/`.

    >>> EvaluationReport(model=TunedModel(...), prompts_sha256="1c3e...", num_prompts=256, seed=0,
    ...                  pipeline="StableDiffusionXLPipeline", scheduler="DDIMScheduler", num_inference_steps=20,
    ...                  guidance_scale=3.0, trained_rewards=("symmetry",),
    ...                  scores=(Score(...),), scores_sha256="ab12...")
    """

    kind: Literal["EvaluationReport/1"] = "EvaluationReport/1"
    model: TunedModel
    prompts_sha256: str
    """Digest of the prompts.jsonl whose held-out part was used, which need not be that of the model's own prompts."""
    num_prompts: int
    seed: int
    pipeline: str
    """Class of diffusers that sampled; likewise its scheduler."""
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    trained_rewards: tuple[str, ...]
    """Rewards that the candidate was tuned on; the others are held out."""
    scores: tuple[Score, ...]
    """For each reward first the score over all prompts, then one for each category."""
    scores_sha256: str
    """Digest of scores.parquet."""
    reward_provenance: dict[str, str] = {}
    """What the scores hang on, by reward: digests of weights and files, and how images were resized."""


class Decision(Contract):
    """Whether to publish, and why.

    >>> Decision(publish=True, reasons=("symmetry: gain 0.27 (95 % interval 0.25 to 0.29), at least 0.10 wanted",),
    ...          report_sha256="5e0f...", policy_sha256="c7aa...")
    """

    kind: Literal["Decision/1"] = "Decision/1"
    publish: bool
    reasons: tuple[str, ...]
    """One sentence for each rule of the policy, the failed ones first."""
    report_sha256: str
    """Digest of the report's manifest.json."""
    policy_sha256: str


class RegistryEntry(Contract):
    """One immutable version of a published model.

    >>> RegistryEntry(name="miniature-symmetry", version="v3", uri="s3://models/miniature-symmetry/files/5d1c...",
    ...               digest="e01c...", files={"README.md": "77ab..."}, model=TunedModel(...), decision=Decision(...))
    """

    kind: Literal["RegistryEntry/1"] = "RegistryEntry/1"
    name: str
    version: str
    uri: str
    digest: str
    """Digest over `files`: equal content has equal digest."""
    files: dict[str, str]
    """sha256 of every file of the version, by path."""
    model: TunedModel
    decision: Decision

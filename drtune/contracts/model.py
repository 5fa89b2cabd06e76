"""What training takes and gives: prompts, and a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from drtune.contracts.base import Contract
from drtune.files.local import check_sha256

CONFIG = "config.yaml"
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
"""Where a TunedModel keeps a LoRA, under the name by which diffusers finds it."""
NETWORK = "network/diffusion_pytorch_model.safetensors"
"""Where it keeps full weights, likewise; with NETWORK_CONFIG beside them, diffusers loads the folder."""
NETWORK_CONFIG = "network/config.json"


class DataSource(Contract):
    """Where prompts came from.

    >>> DataSource(path="data/sdxl.jsonl", sha256="9f2c...", git_revision="4a1b...", dvc_md5="d751...dir")
    """

    path: str
    sha256: str
    git_revision: str | None = None
    """Commit whose data.dvc, or other file of DVC, was read; None outside of version control."""
    dvc_md5: str | None = None
    """The md5 that it states and that the files were checked against; None for a file not under DVC."""


class PromptSet(Contract):
    """Prompts, split once and for all: `prompts.jsonl` with one {"text", "category", "split"} a line.

    >>> PromptSet(sha256="1c3e...", num_train=2000, num_eval=400, categories={"anime": 600, "photo": 600},
    ...           problems={"empty": 2}, split_version=2, source=DataSource(path="data/sdxl.jsonl", sha256="9f2c..."))
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
    split_version: Literal[2] = 2
    """Of the rule that chose the side of prompts whose source states none: by the hash of what is left of their text
    when case, punctuation and spaces do not count."""
    near_duplicates: int = 0
    """Held-out prompts that are nearly the same as one to train on, which `near_duplicates.jsonl` names."""
    source: DataSource
    added: DataSource | None = None
    """Where more prompts came from that stand beside those of the source, as those that came in since."""

    @property
    def told(self) -> str:
        """What was taken and what was not, in a line."""
        refused = ", ".join(f"{count} {reason}" for reason, count in self.problems.items())
        told = f"{self.num_train} prompts to train on, {self.num_eval} held out; not taken: {refused or 'none'}"
        return f"{told}; nearly the same on both sides: {self.near_duplicates}"


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
    """The commit of a base of the hub that it was tuned on; None: of a local folder or the miniature, which have none,
    or tuned by a version that did not record it."""
    start_sha256: str | None = None
    """Digest of the adapter that it began from, which `lora.init` names; None: it began afresh."""
    pictures_sha256: str | None = None
    """Digest of the real pictures that its updates started from, which `method.pictures` names; None: of none."""
    step: int
    """Optimizer updates done."""
    config_sha256: str
    """Digest of config.yaml."""
    prompts: PromptSet
    code_revision: str | None
    """Commit of the code that tuned; None when it cannot be known."""
    reward: float
    """Mean training reward over the last ten updates."""
    reward_files: dict[str, str] = Field(default={})
    """Files of your own rewards that are kept in the folder: sha256 by path."""
    cluster_sha256: str | None = None
    """Digest of the resolved cluster file of the job that tuned it; None: it was tuned without one."""

    @property
    def told(self) -> str:
        """What came of the training, in a few words."""
        return f"{self.step} updates, reward {self.reward:.3f}"

    @property
    def weights_file(self) -> str:
        """Path of the safetensors file with the weights, inside the model's folder."""
        return ADAPTER if self.weights == "lora" else NETWORK

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files of the model beside its manifest."""
        weights = (ADAPTER,) if self.weights == "lora" else (NETWORK, NETWORK_CONFIG)
        return (CONFIG, *weights, *self.reward_files)

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of the files whose content makes the model what it is, by their paths."""
        return {CONFIG: self.config_sha256, self.weights_file: self.weights_sha256, **self.reward_files}

    def check_files(self, folder: str | Path, *, place: str | None = None, fix: str) -> None:
        """Compare the files in `folder` with this manifest.

        Raises:
            UserError: one is missing or another one; the message says where by `place`, if that is not `folder`.
        """
        for path, sha256 in self.digests.items():
            check_sha256(
                Path(folder) / path, sha256, owner="the model's manifest", fix=fix, shown=f"{place or folder}/{path}"
            )

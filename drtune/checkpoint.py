"""A training run's state as one file: whole or absent, and read back bit for bit.

No random state is kept, because none exists between updates: whatever an update draws, it draws from the seed and its
own number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from drtune.config import Config
from drtune.errors import UserError
from drtune.tensors import below, load_optimizer_tensors, load_tensors, named, optimizer_tensors, save_tensors

FREE_KEYS = frozenset({"steps", "processes", "checkpoint_every", "sample_every", "evaluation"})
"""Settings that may change on resume: no update depends on them."""


@dataclass(frozen=True)
class TrainState:
    """All that one update hands to the next. Restoring fills the same tensors in place."""

    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    """Running mean of the weights; empty without EMA."""
    optimizer: torch.optim.Optimizer

    def save(self, path: Path, *, step: int, config: Config, prompts_sha256: str) -> None:
        """Write the state after `step` updates, in place of the one before."""
        tensors = (
            named("weights", self.weights)
            | named("average", self.average)
            | named("optimizer", optimizer_tensors(self.optimizer))
        )
        about = {"step": str(step), "config": config.model_dump_json(), "prompts_sha256": prompts_sha256}
        save_tensors(path, tensors, about)

    def restore(self, path: Path, *, config: Config, prompts_sha256: str) -> int:
        """Take the state back; return the number of updates it has seen.

        Raises:
            UserError: the file is damaged, or belongs to another configuration or to other prompts.
        """
        tensors, about = load_tensors(path)
        _refuse_another_run(path, about, config, prompts_sha256)
        with torch.no_grad():
            for part, mine in (("weights", self.weights), ("average", self.average)):
                saved = below(part, tensors)
                for name, tensor in mine.items():
                    tensor.copy_(saved[name])
        load_optimizer_tensors(self.optimizer, below("optimizer", tensors))
        return int(about["step"])


def _refuse_another_run(path: Path, about: Mapping[str, str], config: Config, prompts_sha256: str) -> None:
    saved = Config.model_validate_json(about["config"])
    fixed = {key: getattr(saved, key) for key in Config.model_fields if key not in FREE_KEYS}
    if different := config.differences(config.model_copy(update=fixed)):
        raise UserError(
            f"checkpoint {path}: made with another configuration: {', '.join(different)}; "
            "give the same values, or start again with --overwrite"
        )
    if about["prompts_sha256"] != prompts_sha256:
        raise UserError(f"checkpoint {path}: made with other prompts; give the same, or start again with --overwrite")

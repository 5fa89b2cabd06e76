"""A run's checkpoints: each one file, whole or absent, verified by the digest in its name, read back bit for bit.

No random state is kept, because none exists between updates: whatever an update draws, it draws from the seed and its
own number.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from drtune.config import Config, differences
from drtune.errors import UserError
from drtune.files.local import replacing, sha256_bytes, sha256_file
from drtune.models.tensors import load_tensors, to_bytes
from drtune.training.state import TrainState

NAME = re.compile(r"step-(\d+)-([0-9a-f]{12})\.safetensors")
ABOUT = "drtune"
"""The one entry of a checkpoint's metadata: several would stand in an order that chance decides, and equal states would
make unequal files."""


HELD_OUT_PICTURES = "as the evaluation draws them"
"""What the held-out rewards of a checkpoint are means over. Earlier ones are of another sampler's pictures."""


class Checkpoints:
    """The folder of one run's checkpoints, `step-000020-9f2c1b7a4d5e.safetensors`: the update, the digest's start."""

    def __init__(self, folder: Path, config: Config, prompts_sha256: str) -> None:
        self.folder, self.config, self.prompts_sha256 = folder, config, prompts_sha256

    def files(self) -> dict[int, Path]:
        """The checkpoints by the number of updates that they have seen, the newest last."""
        paths = {path: NAME.fullmatch(path.name) for path in self.folder.glob("step-*")}
        return dict(sorted((int(match[1]), path) for path, match in paths.items() if match))

    def save(
        self, step: int, tensors: Mapping[str, Tensor], held_out: Mapping[int, float], *, protected: int | None = None
    ) -> Path:
        """Write the state after `step` updates, then delete those that are too old, but not that of `protected`."""
        for leftover in self.folder.glob(".step-*"):  # of a write that was cut short
            shutil.rmtree(leftover)
        about = {
            "step": step,
            "config": self.config.model_dump(mode="json"),
            "prompts_sha256": self.prompts_sha256,
            "held_out": held_out,
            "held_out_pictures": HELD_OUT_PICTURES,
        }
        content = to_bytes(tensors, {ABOUT: json.dumps(about)})
        path = self.folder / f"step-{step:06d}-{sha256_bytes(content)[:12]}.safetensors"
        with replacing(path) as written:
            written.write_bytes(content)
        for other in self.folder.glob(f"step-{step:06d}-*"):
            if other != path:
                other.unlink()
        files = self.files()
        for old in list(files)[: -self.config.keep_checkpoints]:
            if old != protected:
                files[old].unlink()
        return path

    def restore(self, state: TrainState, step: int | None = None) -> int:
        """Load the newest checkpoint, or the one of `step`, into `state`; returns its number of updates, 0 for none.

        Raises:
            UserError: the file is damaged, or belongs to another configuration or to other prompts.
        """
        files = self.files()
        if not files:
            return 0
        path = files[max(files) if step is None else step]
        self._refuse_damage(path)
        tensors, metadata = load_tensors(path)
        about = json.loads(metadata[ABOUT])
        self._refuse_another_run(path, about)
        state.load(tensors)
        state.held_out.clear()
        state.held_out.update({int(number): value for number, value in about["held_out"].items()})
        done: int = about["step"]
        return done

    def _refuse_damage(self, path: Path) -> None:
        match = NAME.fullmatch(path.name)
        assert match is not None
        if sha256_file(path)[:12] != match[2]:
            earlier = [number for number in self.files() if number < int(match[1])]
            then = f"go on from update {max(earlier)}" if earlier else "start from the beginning"
            raise UserError(
                f"checkpoint {path}: damaged, its content has not the digest in its name; delete it to {then}"
            )

    def _refuse_another_run(self, path: Path, about: dict[str, object]) -> None:
        try:
            saved = Config.model_validate(about["config"])
        except ValidationError:
            raise UserError(
                f"checkpoint {path}: its configuration is not of this version of drtune; start again with --overwrite"
            ) from None
        if different := differences(self.config, _where_it_matters(saved, self.config)):
            raise UserError(
                f"checkpoint {path}: made with another configuration: {', '.join(different)}; "
                "give the same values, or start again with --overwrite"
            )
        if about["held_out"] and about.get("held_out_pictures") != HELD_OUT_PICTURES:
            raise UserError(
                f"checkpoint {path}: its held-out rewards are of pictures that an earlier version of drtune drew with "
                "another sampler, from other noise; start again with --overwrite"
            )
        if about["prompts_sha256"] != self.prompts_sha256:
            raise UserError(
                f"checkpoint {path}: made with other prompts; give the same, or start again with --overwrite"
            )


def _where_it_matters(saved: Config, config: Config) -> Config:
    """`saved` with every key taken from `config` that changes no bit of an update, and which may so differ."""
    # Processes only change the order of a sum, and a cluster may not give as many again.
    free = ["processes", "checkpoint_every", "keep_checkpoints", "wandb_project"]
    if config.optimizer.schedule == "constant":
        free.append("steps")
    if config.held_out is None:
        free += ["sample_every", "evaluation"]
    compute = {key: getattr(config.compute, key) for key in ("keep_graphs", "gradient_checkpointing")}
    changed = {key: getattr(config, key) for key in free}
    return saved.model_copy(update=changed | {"compute": saved.compute.model_copy(update=compute)})

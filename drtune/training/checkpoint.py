"""A run's checkpoints: each whole or absent, verified by the digest in its name, read back bit for bit.

That of a LoRA is one file. That of all weights is a folder, to which every process adds the shards that it keeps, so
that none ever holds more; the list of their digests, written last, makes it a checkpoint and gives it its name.

No random state is kept, because none exists between updates: whatever an update draws, it draws from the seed and its
own number.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from drtune.config import Config, differences
from drtune.errors import UserError
from drtune.files.local import replacing, sha256_bytes, sha256_file, write_text
from drtune.models.tensors import metadata_of, to_bytes
from drtune.training.mirror import SHARDS
from drtune.training.processes import Processes
from drtune.training.shards import read_shards, write_shards
from drtune.training.state import TrainState

FOLDER = "checkpoints"
"""In the folder of a run."""
NAME = re.compile(r"step-(\d+)-([0-9a-f]{12})(\.safetensors)?")
ABOUT = "drtune"
"""The one entry of a checkpoint's metadata: several would stand in an order that chance decides, and equal states would
make unequal files."""


class Checkpoints:
    """The folder of one run's checkpoints.

    A LoRA's is `step-000020-9f2c1b7a4d5e.safetensors`: the update, the digest's start. That of all weights is
    `step-000020-9f2c1b7a4d5e/`, and the digest that of `shards.json` in it.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        prompts_sha256: str,
        processes: Processes,
        *,
        start_sha256: str | None = None,
        pictures_sha256: str | None = None,
    ) -> None:
        self.folder, self.config, self.processes = folder, config, processes
        self.prompts_sha256, self.start_sha256 = prompts_sha256, start_sha256
        self.pictures_sha256 = pictures_sha256

    def files(self) -> dict[int, Path]:
        """The checkpoints by the number of updates that they have seen, the newest last."""
        paths = {path: NAME.fullmatch(path.name) for path in self.folder.glob("step-*")}
        whole = {path: match for path, match in paths.items() if match and (match[3] or (path / SHARDS).exists())}
        return dict(sorted((int(match[1]), path) for path, match in whole.items()))

    def save(self, step: int, state: TrainState, *, protected: int | None = None) -> None:
        """Write the state after `step` updates, then delete those that are too old, but not that of `protected`.

        Every process calls this.
        """
        if self.processes.is_first_here:
            self._take_leftovers_away()
        self.processes.wait()  # a process that went on might write what another takes away
        about = {
            "step": step,
            "config": self.config.model_dump(mode="json"),
            "prompts_sha256": self.prompts_sha256,
            "start_sha256": self.start_sha256,
            "pictures_sha256": self.pictures_sha256,
            "held_out": state.held_out,
        }
        if self.config.weights == "full":
            path = self._write_shards(f"step-{step:06d}", state.tensors(), about)
        elif self.processes.is_main:
            path = self._write_file(f"step-{step:06d}", state.tensors(), about)
        else:
            return
        if self.processes.is_first_here:
            self._delete_older(step, path, protected)

    def _write_file(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
        content = to_bytes(tensors, {ABOUT: json.dumps(about)})
        path = self.folder / f"{name}-{sha256_bytes(content)[:12]}.safetensors"
        with replacing(path) as written:
            written.write_bytes(content)
        return path

    def _write_shards(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
        aside = self.folder / f".{name}"
        mine = {shard: sha256_file(aside / shard) for shard in write_shards(aside, tensors)}
        sha256 = {shard: digest for part in self.processes.exchange(mine) for shard, digest in part.items()}
        content = json.dumps({**about, "sha256": sha256}, indent=1)
        path = self.folder / f"{name}-{sha256_bytes(content.encode())[:12]}"
        path.mkdir(exist_ok=True)
        for shard in mine:
            (aside / shard).replace(path / shard)
        self.processes.wait()
        # Machines that share no disk have their own shards each, and all have the list; those that do write the same.
        if self.processes.is_first_here:
            shutil.rmtree(aside, ignore_errors=True)
            write_text(path / SHARDS, content)
        self.processes.wait()
        return path

    def _take_leftovers_away(self) -> None:
        """What writing or deleting has left that was cut short."""
        kept = self.files().values()
        for path in self.folder.glob(".step-*"):
            _delete(path)
        for path in self.folder.glob("step-*"):
            if path.is_dir() and path not in kept:
                _delete(path)

    def _delete_older(self, step: int, newest: Path, protected: int | None) -> None:
        for other in self.folder.glob(f"step-{step:06d}-*"):
            if other != newest:
                _delete(other)
        files = self.files()
        for old in list(files)[: -self.config.keep_checkpoints]:
            if old != protected:
                _delete(files[old])

    def restore(self, state: TrainState, step: int | None = None) -> int:
        """Load the newest checkpoint, or the one of `step`, into `state`; returns its number of updates, 0 for none.

        Every process calls this; there may be more or fewer of them than when it was written.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another configuration or to other prompts, or not every
                process finds the same.
        """
        files = self.files()
        path = files[max(files) if step is None else step] if files else None
        if len(set(self.processes.exchange(path.name if path else None))) > 1:
            raise UserError(
                f"checkpoints {self.folder}: not every process finds the same; put them where all nodes can read them"
            )
        if path is None:
            return 0
        about, parts = self._verified(path)
        self._refuse_another_run(path, about)
        read_shards(parts, state)
        state.held_out.clear()
        state.held_out.update({int(number): value for number, value in about["held_out"].items()})
        done: int = about["step"]
        return done

    def _verified(self, path: Path) -> tuple[dict[str, Any], list[Path]]:
        """What a checkpoint says about itself, and its files of tensors, all of which are as they were written."""
        match = NAME.fullmatch(path.name)
        assert match is not None
        listed = path if match[3] else path / SHARDS
        self._refuse_damage(path, [] if sha256_file(listed)[:12] == match[2] else [listed])
        try:
            about = json.loads(metadata_of(path)[ABOUT] if match[3] else listed.read_bytes())
        except (KeyError, ValueError):
            raise UserError(f"checkpoint {path}: does not say what it is of; delete it") from None
        if match[3]:
            return about, [path]
        shards: dict[str, str] = about["sha256"]
        self._refuse_damage(
            path,
            [
                path / shard
                for shard, sha256 in self.processes.share_here(list(shards.items()))
                if not (path / shard).is_file() or sha256_file(path / shard) != sha256
            ],
        )
        return about, [path / shard for shard in shards]

    def _refuse_damage(self, path: Path, mine: list[Path]) -> None:
        """Raise UserError in every process if any has found a damaged file."""
        damaged = sorted({part for found in self.processes.exchange(mine) for part in found})
        if not damaged:
            return
        step = int(path.name.split("-")[1])
        earlier = [number for number in self.files() if number < step]
        then = f"go on from update {max(earlier)}" if earlier else "start from the beginning"
        what = f"its {damaged[0].name} was changed or is missing"
        if damaged[0] == path:
            what = "its content has not the digest in its name"
        raise UserError(f"checkpoint {path}: damaged, {what}; delete it to {then}")

    def _refuse_another_run(self, path: Path, about: dict[str, object]) -> None:
        try:
            saved = Config.model_validate(about["config"])
        except ValidationError:
            raise UserError(
                f"checkpoint {path}: its configuration is not of this version of drtune; start again with --overwrite "
                "instead of --resume"
            ) from None
        if different := differences(self.config, _where_it_matters(saved, self.config)):
            raise UserError(
                f"checkpoint {path}: made with another configuration: {', '.join(different)}; "
                "give the same values, or start again with --overwrite instead of --resume"
            )
        if about.get("start_sha256") != self.start_sha256:
            raise UserError(
                f"checkpoint {path}: lora.init={self.config.lora.init!r} is another file than the run began from; give "
                "the same, or start again with --overwrite instead of --resume"
            )
        if about.get("pictures_sha256") != self.pictures_sha256:
            raise UserError(
                f"checkpoint {path}: method.pictures={self.config.method.pictures!r} holds other pictures than the run "
                "began from; give the same, or start again with --overwrite instead of --resume"
            )
        if about["prompts_sha256"] != self.prompts_sha256:
            raise UserError(
                f"checkpoint {path}: made with other prompts; give the same, or start again with --overwrite instead "
                "of --resume"
            )


def _delete(path: Path) -> None:
    """Delete a checkpoint, or a part of one. Machines that share a disk may do so at the same time."""
    if path.is_dir():
        (path / SHARDS).unlink(missing_ok=True)  # first, so that what is left never counts as a checkpoint
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _where_it_matters(saved: Config, config: Config) -> Config:
    """`saved` with every key taken from `config` that changes no bit of an update, and which may so differ."""
    # Processes only change the order of a sum, and a cluster may not give as many again.
    free = ["processes", "checkpoint_every", "keep_checkpoints", "wandb_project", "mlflow_experiment"]
    if config.optimizer.schedule == "constant":
        free.append("steps")
    if config.held_out is None:
        free += ["sample_every", "sample_prompts", "evaluation"]
    compute = {key: getattr(config.compute, key) for key in ("keep_graphs", "gradient_checkpointing")}
    changed = {key: getattr(config, key) for key in free}
    return saved.model_copy(update=changed | {"compute": saved.compute.model_copy(update=compute)})

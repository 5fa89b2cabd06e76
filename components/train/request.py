"""What a training on a cluster is asked, and what it gives back, at the run's own address in S3.

Below `<storage>/<run id>/train` there are

- `request/`, config.yaml and prompts/, written by the launcher and read by every node;
- `model/`, the training's checkpoints and then its model, kept by its nodes (drtune/training/mirror.py);
- `launcher`, a new word every minute: nodes end when it stays the same for too long.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from drtune.config import Config
from drtune.contracts import CONFIG, MANIFEST, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.files.local import replacing
from drtune.files.output import MARK
from drtune.files.storage import Storage
from drtune.training.mirror import CHECKPOINTS, MODEL, REQUEST


def write_request(storage: Storage, config: Config, prompts: Path) -> None:
    """Store the resolved configuration and the PromptSet; the manifest, which makes it whole, last."""
    storage.write(f"{REQUEST}/{CONFIG}", config.to_yaml().encode())
    for path in sorted(prompts.iterdir(), key=lambda path: path.name == MANIFEST):
        storage.upload(f"{REQUEST}/prompts/{path.name}", path)


def is_answered(storage: Storage, config: Config, prompts: Path) -> bool:
    """Whether the model that is asked for is there already: an earlier try of the launcher had it made."""
    try:
        made = TunedModel.read(storage.read(f"{MODEL}/{MANIFEST}"), storage.uri, fix="start the run again")
    except (FileNotFoundError, ValidationError, UserError):
        return False
    asked = config.model_copy(update={"base_revision": made.base_revision})  # the commit of what was asked
    return made.config_sha256 == asked.sha256() and made.prompts == PromptSet.load(prompts)


def fetch_model(storage: Storage, out: Path, cluster_sha256: str) -> None:
    """Fetch the model that the training left into the new folder `out`, with its log but without its checkpoints.

    Its nodes do not know the cluster file, so its digest is written into the manifest here.

    Raises:
        RuntimeError: there is none, a file is missing, or one has not the digest that its manifest says.
    """
    keys = [key.removeprefix(f"{MODEL}/") for key in storage.keys(MODEL)]
    if MANIFEST not in keys:
        raise RuntimeError(f"{storage.uri}/{MODEL}: the training job succeeded and left no model here")
    with replacing(out) as written:
        for key in keys:
            if not key.startswith(CHECKPOINTS) and key != MARK:  # a model from then on, and no run
                (written / key).parent.mkdir(parents=True, exist_ok=True)
                storage.download(f"{MODEL}/{key}", written / key)
        try:
            tuned = TunedModel.load(written)
            tuned.check_files(written, place=f"{storage.uri}/{MODEL}", fix="start the run again")
        except UserError as error:  # nobody who reads this has made it
            raise RuntimeError(str(error)) from None
        tuned.model_copy(update={"cluster_sha256": cluster_sha256}).save(written)

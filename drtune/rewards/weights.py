"""Where the published rewards' weights come from: the Hugging Face hub, a folder that mirrors it, or a checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from drtune.errors import UserError
from drtune.files.hub import from_hub
from drtune.files.local import check_digest, digest_of, open_given

MIRROR = "DRTUNE_REWARDS"
"""Environment variable: a folder with the files of hub repositories, as in FOLDER/xswu/HPSv2/HPS_v2.1_compressed.pt."""


def weights_of(
    reward: str,
    repository: str,
    file: str,
    digest: str | None = None,
    *,
    beside: Iterable[str] = (),
    revision: str | None = None,
    checkpoint: Path | None = None,
) -> tuple[Path, str]:
    """The file of a hub repository that has a reward's weights, with the files `beside` it; or a checkpoint of yours.

    Args:
        reward: the name of the reward that asks.
        repository: of the hub.
        file: its name there.
        digest: what the hub's must have, if it is known: `sha256:21dd...` or `md5:4067...`.
        beside: names of files that must stand beside it.
        revision: as in `fetch`.
        checkpoint: such a file under any name, or a folder that holds it under the published one.

    Returns:
        Where it is; and its name and digest, to be told with the scores.

    Raises:
        UserError: a file is not to be had, or is not the published one.
    """
    if checkpoint is not None and not checkpoint.is_dir():
        file = checkpoint.name
    path = fetch(reward, repository, (file, *beside), revision, checkpoint) / file
    kind, _, published = (digest or "sha256:").partition(":")
    found = digest_of(path, kind)
    if published and checkpoint is None and not os.environ.get(MIRROR):
        fix = "delete it, and it is downloaded again"
        check_digest(f"reward {reward}: {path}", found, published, owner="its publisher", fix=fix)
    return path, f"{path.name} {kind} {found}"


def fetch(
    reward: str,
    repository: str,
    files: Sequence[str],
    revision: str | None = None,
    checkpoint: Path | None = None,
) -> Path:
    """The folder that holds `files` of a hub repository.

    A `revision` is a commit of the repository, whose files cannot change.
    With DRTUNE_REWARDS set its files are taken as they are. Else they are downloaded into the hub's cache if they are
    not there yet; HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured.
    A `checkpoint`, a folder or a file in it, takes the repository's place; its files are taken as they are, too.

    Raises:
        UserError: a file is not to be had.
    """
    if checkpoint is not None:
        return _given(reward, repository, files, checkpoint)
    pinned = f" --revision {revision}" if revision else ""
    if mirror := os.environ.get(MIRROR):
        folder = Path(mirror) / repository
        for file in files:
            if not (folder / file).is_file():
                raise UserError(
                    f"reward {reward}: {MIRROR}={mirror} has no {repository}/{file}; "
                    f"run `hf download {repository} {file}{pinned} --local-dir {folder}`"
                )
        return folder
    first, *_ = [_downloaded(reward, repository, file, revision) for file in files]
    return first.parent


def _given(reward: str, repository: str, files: Iterable[str], checkpoint: Path) -> Path:
    if not checkpoint.exists():
        raise UserError(
            f"reward {reward}: checkpoint {checkpoint} is not there; give a file, or a folder with files, as "
            f"{repository} of the hub has them"
        )
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for file in files:
        if not (folder / file).is_file():
            raise UserError(
                f"reward {reward}: checkpoint {checkpoint} needs {folder / file}, which is not there; get it from "
                f"{repository} of the hub"
            )
    return folder


def _downloaded(reward: str, repository: str, file: str, revision: str | None) -> Path:
    try:
        return from_hub(repository, file, revision)
    except OSError as error:  # the hub's own errors are among them
        pinned = f" --revision {revision}" if revision else ""
        raise UserError(
            f"reward {reward}: {file} of the hub's {repository} cannot be had ({type(error).__name__}); where there is "
            f"a network run `hf download {repository} {file}{pinned}`, or set {MIRROR} to a folder that holds "
            f"{repository}/{file}"
        ) from None


def sha256_of_all(paths: Iterable[Path]) -> str:
    """The sha256 in hex of files one after the other, as of `cat FILES | sha256sum`."""
    running = hashlib.sha256()
    for path in paths:
        with open_given(path) as file:
            hashlib.file_digest(file, lambda: running)
    return running.hexdigest()

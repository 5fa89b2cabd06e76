"""A published version on the Hugging Face hub: its card, its pictures, its weights, and where they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drtune.contracts import SCORES, RegistryEntry
from drtune.errors import UserError
from drtune.publishing.publication import CARD
from drtune.publishing.registry import PRODUCTION, Registry

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push(source: str, repository: str, api: HfApi, *, registry: str) -> str:
    """Put a version into a repository of a hub in one commit; returns the commit's address.

    The repository is made if it is not there. Its other files stay as they are.

    Args:
        source: NAME or NAME@VERSION in the registry (default: the one in production), or the folder of a run of
            `drtune-pipeline`, which tells its version and its registry itself.
        repository: user/name.
        api: the hub, with a token that may write there.
        registry: as `Registry` takes it.

    Raises:
        UserError: the run published nothing, there is no such version, or the hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd

    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise UserError(f"repository {repository!r}: wanted user/name")
    if Path(source).is_dir():
        published = RegistryEntry.load(Path(source) / "entry")
        name, version, registry = published.name, published.version, published.uri.rsplit("/", 3)[0]
    else:
        name, _, version = source.partition("@")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        entry = Registry(registry).pull(name, version or PRODUCTION, folder)
        card = (folder / CARD).read_text(encoding="utf-8")  # which says where the files are; there they will be
        (folder / CARD).write_text(card.replace(f'folder = "{name}"', f'folder = "{repository}"'), encoding="utf-8")
        files = [path for path in entry.files if not path.endswith(SCORES)]  # a table of numbers belongs to data sets
        with _explained(api.endpoint, repository):
            api.create_repo(repository, exist_ok=True)
            commit = api.create_commit(
                repository,
                [CommitOperationAdd(path, folder / path) for path in files],
                commit_message=f"{entry.name} {entry.version}",
            )
    return commit.commit_url


@contextmanager
def _explained(hub: str, repository: str) -> Iterator[None]:
    """Turn the failures of a hub into one line without secrets."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its own, which changed its name

    try:
        yield
    except ValueError as error:  # of the client itself: the name, or what the hub says of the card
        raise UserError(f"hub {hub}: does not take {repository}: {' '.join(str(error).split())}") from None
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE: is set, and nothing can be pushed; unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"hub {hub}: refuses the token ({status}) for {repository}; set HF_TOKEN to one that may write there"
            ) from None
        raise OSError(f"hub {hub}: answered {status} for {repository}: {error.server_message or 'no reason'}") from None
    except httpx.TransportError as error:
        raise UserError(f"hub {hub}: no answer ({type(error).__name__}); try again, or correct HF_ENDPOINT") from None

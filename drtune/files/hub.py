"""Files of the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import http_backoff, httpx  # type: ignore[attr-defined]  # its own, which changed its name

RequestError: type[Exception] = httpx.RequestError
"""The hub did not answer, or not to the end."""

LONGEST_WAIT = 3
"""Seconds for a hub to answer at all, where HF_HUB_ETAG_TIMEOUT does not give it more."""


def from_hub(repository: str, file: str, revision: str | None) -> Path:
    """A file of a model on the hub, from its cache, or downloaded into it.

    A hub that is away would be asked again for half a minute, where nothing refuses the connection for ten. So what is
    not in the cache begins with two short looks at the hub; one that answers, whatever it says, is then asked with all
    patience.

    Raises:
        LocalEntryNotFoundError: the hub is away, or HF_HUB_OFFLINE is set, and the cache has no copy.
        OSError, ValueError: as `hf_hub_download`.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each time that it tries again
    if not isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        try:
            longest = max(LONGEST_WAIT, int(os.environ.get("HF_HUB_ETAG_TIMEOUT", "0")))
            http_backoff("HEAD", ENDPOINT, max_retries=1, timeout=longest, retry_on_status_codes=())
        except (OfflineModeIsEnabled, RequestError) as error:
            raise LocalEntryNotFoundError(f"{ENDPOINT}: {error}") from None
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except RequestError:  # it hung up, or its proxy refused: the client takes only the cache's copy for others
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))

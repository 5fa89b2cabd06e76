"""Prompts of a data set on the Hugging Face hub, by its name: hf://datasets/owner/name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from drtune.contracts import MANIFEST, DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.given import is_on_hub
from drtune.files.local import LARGEST_READ, read_given, sha256_bytes, sha256_file
from drtune.prompts.prepare import Gathered, joined, parse
from drtune.prompts.records import SUFFIXES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

DATA = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""Suffixes of files that hold data; those of text are as often licences."""
ABOUT = ("dataset_infos.json",)
"""Files that do not, in spite of their suffix."""
FORM = "hf://datasets/owner/name[@revision][/file or folder][?split=train&column=prompt]"


@dataclass(frozen=True)
class Address:
    """What of which data set."""

    repository: str
    revision: str | None
    path: str
    """Of a file or a folder in it; "" for all."""
    split: str | None
    column: str | None

    @classmethod
    def read(cls, given: str) -> Address:
        """The address in a text of the form FORM.

        Raises:
            UserError: it has another form.

        >>> Address.read("hf://datasets/owner/name?split=train").repository
        'owner/name'
        """
        parts = urlsplit(given)
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*?))?/?", parts.path)
        if parts.netloc != "datasets" or match is None or parts.fragment or set(asked) - {"split", "column"}:
            raise UserError(f"prompts {given}: is no data set of the hub; give {FORM}")
        repository, revision, path = match.groups()
        return cls(repository, revision, path or "", asked.get("split") or None, asked.get("column") or None)


def source_of(given: str | Path) -> str | Path | Gathered:
    """What `prepare` takes: a file as it is, a data set of the hub as it was read.

    Raises:
        UserError, OSError: as `read_dataset`.
    """
    return read_dataset(str(given)) if is_on_hub(given) else given


def is_from(prompt_set: PromptSet, given: str | Path) -> bool:
    """Whether it was prepared from what is given; of a data set by its address, so that a run keeps its commit."""
    if is_on_hub(given):
        return prompt_set.source.path == _spelt_out(str(given))
    return Path(given).is_file() and prompt_set.source.sha256 == sha256_file(given)


def is_prepared(given: str | Path, folder: Path, *, goes_on: bool) -> bool:
    """Whether `folder` holds the PromptSet of what is given.

    Raises:
        UserError: it holds another, and the run that was made with it goes on.
    """
    if not (folder / MANIFEST).exists():
        return False
    is_same = is_from(PromptSet.load(folder), given)
    if goes_on and not is_same and (is_on_hub(given) or Path(given).exists()):
        raise UserError(
            f"prompts {given}: not those that the run began with, which are in {folder}; go on with "
            f"--prompts={folder}, or start again with --overwrite instead of --resume"
        )
    return is_same


def read_dataset(given: str, api: HfApi | None = None) -> Gathered:
    """The prompts in the files of a data set, at the commit that its revision is now, which the source names.

    All files of DATA are read, or those of a `split`, which has its name in theirs, as the hub itself finds splits; a
    file that the address names may have any of SUFFIXES. Which prompts are held out is decided as ever: by their text,
    or by a field `split`.

    Args:
        given: of the form FORM.
        api: the hub; None: that of HF_ENDPOINT, with the token in HF_TOKEN, if there is one.

    Raises:
        UserError: there is no such data set or no such file in it, it may not be read, a file is too large or cannot be
            read as what its suffix says, or huggingface_hub is not installed.
        OSError: the hub does not answer.
    """
    given = _spelt_out(given)
    address = Address.read(given)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError(f"prompts {given}: huggingface_hub is not installed: pip install huggingface_hub") from None
    api = api or HfApi()
    parsed, digests = {}, []
    with _explained(given, api.endpoint):
        found = api.dataset_info(address.repository, revision=address.revision, files_metadata=True)
        for name in _files(given, address, found.siblings or []):
            with TemporaryDirectory() as scratch:
                path = api.hf_hub_download(
                    address.repository, name, repo_type="dataset", revision=found.sha, local_dir=scratch
                )
                content = read_given(path)
            digests.append(sha256_bytes(content))
            parsed[name] = parse(content, name, column=address.column)
    source = DataSource(path=given, sha256=sha256_bytes("".join(digests).encode()), git_revision=found.sha)
    return Gathered(*joined(parsed), source, num_files=len(digests))


def _spelt_out(given: str) -> str:
    """The address with both of its slashes, of which a Path has lost one."""
    return re.sub("^hf:/+", "hf://", given)


def _files(given: str, address: Address, siblings: Sequence[RepoSibling]) -> list[str]:
    """The names of the files that are meant, in order.

    Raises:
        UserError: there is none, or one is too large.
    """

    def is_meant(name: str) -> bool:
        if name == address.path:
            return Path(name).suffix.lower() in SUFFIXES
        return (
            Path(name).suffix.lower() in DATA
            and name not in ABOUT
            and name.startswith(f"{address.path}/" if address.path else "")
            and (address.split is None or address.split in re.split(r"[/._-]", name))
        )

    sizes = {file.rfilename: file.size or 0 for file in siblings if is_meant(file.rfilename)}
    if not sizes:
        there = ", ".join(sorted(file.rfilename for file in siblings)[:10])
        raise UserError(f"prompts {given}: none of its files is meant (it holds {there or 'none'}); give {FORM}")
    for name, size in sizes.items():
        if size > LARGEST_READ:
            raise UserError(
                f"prompts {given}: {name} has {size / 2**20:.0f} MiB, more than {LARGEST_READ // 2**20}; name a "
                "smaller file, or give one that holds its prompts alone"
            )
    return sorted(sizes)


@contextmanager
def _explained(given: str, hub: str) -> Iterator[None]:
    """Turn what a hub says into one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its own, which changed its name

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"prompts {given}: access is restricted; accept its terms on the hub and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"prompts {given}: {hub} has no such data set; correct the name, or set HF_TOKEN if it is private"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"prompts {given}: the data set has no such revision") from None
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE: is set, and a data set cannot be looked up; unset it") from None
    except HfHubHTTPError as error:
        raise OSError(f"hub {hub}: answered {error.response.status_code} for {given}") from None
    except (httpx.TransportError, LocalEntryNotFoundError) as error:
        raise OSError(f"hub {hub}: no answer ({type(error).__name__}); try again, or correct HF_ENDPOINT") from None

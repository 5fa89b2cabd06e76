"""Prepare prompts from a plain file, or from one under DVC at the version that its pointer (data.dvc) states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from components.monitor.sources import read_prompts
from drtune.config import load_config
from drtune.contracts import DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.given import is_on_hub, is_on_s3, is_text_itself, shown_place
from drtune.files.local import digest_of, is_text, local_path, sha256_bytes, sha256_file
from drtune.files.provenance import git
from drtune.prompts.datasets import read_dataset
from drtune.prompts.prepare import Gathered, parse, prepare
from drtune.publishing.policy import Policy

EMPTY = "leave it empty"


def prepare_prompts(prompts: str, data_revision: str, out: Path, incoming: str = "") -> PromptSet:
    """Write the PromptSet of the file at `prompts` into `out`, which is the step's own and is replaced.

    A file that DVC tracks (by prompts.txt.dvc beside it), or in a folder that it tracks (data/ beside data.dvc), is
    checked against the md5 that is stated there, and where it came from is written into the PromptSet. The files at
    hand are fetched with `dvc pull` if they are missing or belong to another version; an edit that DVC has not stored
    is never replaced. A repository that cannot be written to, as in an image, is cloned first, since DVC writes to it.

    Args:
        prompts: Path of the file; a relative one starts at the working directory. Or its address on S3, a data set of
            the hub (`drtune.prompts.datasets`), or lines with a prompt each; or a PromptSet, whose prompts stay on
            their sides, or a folder of files, here or on S3.
        data_revision: Git revision (commit, branch, tag) whose data.dvc is taken, into a folder of its own: the working
            tree stays as it is. "" takes the working tree's.
        out: Folder of the PromptSet.
        incoming: More prompts, as `components.monitor.sources.read_prompts` reads them; "" for none.

    Raises:
        UserError: the revision or the file at that revision does not exist or cannot be fetched, the file is not the
            one that data.dvc states, a revision is given for a file that is not under DVC, or the prompts are not
            usable (see `drtune.prompts.prepare.prepare`).
    """
    prepared = _prepare(prompts, data_revision, out, _gather("incoming", incoming) if incoming else None)
    print(prepared.told)
    return prepared


def tell_prospects(prepared: PromptSet, policy: str, config: str = "", overrides: Sequence[str] = ()) -> None:
    """Say so at once when a policy wants more prompts than will be evaluated on.

    How many of those held out that are is known where the configuration is at hand: in a pod it is in another image.
    """
    count, limit = prepared.num_eval, ""
    if config and (is_text_itself(config) or is_on_s3(config) or Path(config).exists()):
        most = load_config(config, overrides).evaluation.max_prompts
        count, limit = min(count, most), f", evaluation.max_prompts={most}" if most < count else ""
    if policy and count < (wanted := Policy.read(policy).min_prompts):
        wants = f"policy {shown_place(policy)} wants {wanted}"
        print(f"{prepared.num_eval} held out{limit}, {wants}: what this run makes cannot be published")


def refuse_absent(prompts: str) -> None:
    """Refuse a prompts file that is neither here nor under DVC, before anything is replaced for it.

    Raises:
        UserError: it is not.
    """
    if is_text_itself(prompts) or is_on_s3(prompts) or is_on_hub(prompts):
        return
    if not is_text(prompts):
        raise UserError(f"prompts {prompts!a}: no file can have such a name; give the path of a file")
    place = local_path(prompts)
    if not place.exists() and _tracked(str(place)) is None:
        raise UserError(f"prompts {prompts}: not there; give the path of a file")


def is_under_dvc(prompts: str) -> bool:
    """Whether DVC tracks the prompts file, so that a step can fetch it."""
    return _tracked(prompts) is not None


@dataclass(frozen=True)
class _Tracked:
    """A file under DVC."""

    root: Path
    """Of the repository."""
    name: str
    """The file's path in it, with forward slashes."""
    pointer: str
    """Likewise of what states its version: data.dvc, or prompts.txt.dvc."""

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def out(self) -> str:
        """What DVC tracks: the file, or the folder that it is in."""
        return self.pointer.removesuffix(".dvc")


def _tracked(prompts: str) -> _Tracked | None:
    """The prompts file as DVC tracks it, if it does."""
    beside = Path(prompts).absolute()
    # DVC can put links into its cache where files were, and the user a link to a file that DVC tracks.
    for path in (Path(os.path.realpath(beside.parent)) / beside.name, Path(os.path.realpath(beside))):
        for pointer in (Path(f"{out}.dvc") for out in (path, *path.parents)):
            if pointer.is_file():
                root = next((folder for folder in pointer.parents if (folder / ".dvc").is_dir()), pointer.parent)
                return _Tracked(root, *(file.relative_to(root).as_posix() for file in (path, pointer)))
    return None


def _gather(what: Literal["prompts", "incoming"], given: str) -> Gathered:
    """What is on S3, on the hub, or here as a PromptSet or a folder of files, or lines of prompts as they are."""
    if is_text_itself(given):
        content = given.encode()
        data = DataSource(path="given as prompts.txt", sha256=sha256_bytes(content))
        return Gathered(*parse(content, data.path), data)
    if is_on_hub(given):
        return read_dataset(given)
    return read_prompts(what, given)


def _prepare(prompts: str, data_revision: str, out: Path, added: Gathered | None) -> PromptSet:
    if prompts.startswith("file:"):
        prompts = str(local_path(prompts))
    refuse_absent(prompts)
    elsewhere = is_text_itself(prompts) or is_on_s3(prompts) or is_on_hub(prompts)
    file = None if elsewhere else _tracked(prompts)
    if file is None:
        if data_revision:
            raise UserError(f"data_revision={data_revision!r}: {shown_place(prompts)} is not under DVC; {EMPTY}")
        is_file = not is_text_itself(prompts) and Path(prompts).is_file()
        return prepare(prompts if is_file else _gather("prompts", prompts), out, added=added, overwrite=True)
    if not os.access(file.root, os.W_OK):
        with tempfile.TemporaryDirectory() as scratch:
            return _prepare(str(_clone(file, Path(scratch))), data_revision, out, added)
    if not data_revision:
        return prepare(file.path, out, data=_check_out(file), added=added, overwrite=True)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = Path(scratch) / file.path.name
        return prepare(fetched, out, data=_fetch(file, data_revision, fetched), added=added, overwrite=True)


def _clone(file: _Tracked, scratch: Path) -> Path:
    """Clone the repository of a file and return where it is, or will be, in the clone."""
    root = git(file.root, "rev-parse", "--show-toplevel")
    if root is None or git(scratch, "clone", "--quiet", root, "repository") is None:
        raise UserError(
            f"prompts {file.path}: {file.root} can neither be written to, as DVC must, nor cloned with git; "
            "give it to the user who runs this"
        )
    return scratch / "repository" / file.path.relative_to(root)


def _check_out(file: _Tracked) -> DataSource:
    """See to it that a file is what the working tree's pointer states."""
    md5 = _stated_md5(file)
    if not file.path.is_file() or digest_of(file.path, "md5") != md5:
        try:
            _dvc(file.root, "pull", file.pointer)
        except UserError as error:
            raise UserError(
                f"prompts {file.name}: not the version that {file.pointer} states, and {error}; if you edited it, run "
                f"`dvc add {file.out}` to keep that or `dvc pull --force {file.pointer}` to undo it"
            ) from None
    stated = (file.root / file.pointer).read_text(encoding="utf-8")
    commit = git(file.root, "rev-parse", "HEAD")
    if commit and git(file.root, "show", f"{commit}:./{file.pointer}") != stated.strip():
        commit = None  # this version of the data was not committed yet
    return _source(file.path, md5, file.name, stated, commit)


def _fetch(file: _Tracked, revision: str, fetched: Path) -> DataSource:
    """Write a file as its pointer stated it at a git revision to `fetched`."""
    commit = git(file.root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    stated = commit and git(file.root, "show", f"{commit}:./{file.pointer}")
    if not stated:
        raise UserError(
            f"data_revision={revision!r}: no commit, branch or tag with a {file.pointer} in {file.root}; "
            f"`git log {file.pointer}` lists those that changed it"
        )
    md5 = _stated_md5(file, f"--rev={commit}")
    _dvc(file.root, "get", ".", file.name, f"--rev={commit}", f"--out={fetched}")
    return _source(fetched, md5, file.name, stated, commit)


def _stated_md5(file: _Tracked, *revision: str) -> str:
    """Ask DVC which md5 it states for a file."""
    try:
        listed = json.loads(_dvc(file.root, "ls", ".", file.name, "--show-hash", "--json", *revision))
    except UserError as error:
        raise UserError(
            f"prompts {file.name}: not found in what {file.pointer} states ({error}); `dvc ls . {file.out}` lists what "
            "is there"
        ) from None
    if [entry["path"] for entry in listed] != [file.path.name] or file.path.is_dir():
        raise UserError(f"prompts {file.name}: is a folder; give the path of a file in it")
    if listed[0]["md5"] is None:
        raise UserError(
            f"prompts {file.name}: not in the version that {file.pointer} states; add it with `dvc add {file.out}`, "
            f"or move it out of {file.out}/"
        )
    return str(listed[0]["md5"])


def _source(file: Path, md5: str, name: str, stated: str, commit: str | None) -> DataSource:
    if (found := digest_of(file, "md5")) != md5:
        raise UserError(f"prompts {name}: has md5 {found}, DVC states {md5}; run `dvc pull --force` to restore it")
    return DataSource(
        path=name,
        sha256=sha256_file(file),
        git_revision=commit,
        dvc_md5=yaml.safe_load(stated)["outs"][0].get("md5", md5),  # a remote with versions has one for each file
    )


def _dvc(root: Path, *arguments: str) -> str:
    """Run DVC as its own process and return what it prints.

    `dvc.api.DVCFileSystem` would do for a revision. In a working tree it reads what lies there, an edit too, and calls
    that by the md5 that data.dvc states; nor does it tell an edit that is not stored from a version that is.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,  # it must not wait for an answer to a question
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason, *_ = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UserError(f"dvc {arguments[0]} failed: {reason.removeprefix('ERROR: ')}")
    return done.stdout

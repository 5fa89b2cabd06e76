"""Prepare prompts from a plain file, or from a folder under DVC at the version that its pointer (data.dvc) states."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from drtune.contracts import DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.local import sha256_file
from drtune.prompts.prepare import prepare


def prepare_prompts(prompts: str, data_revision: str, out: Path) -> PromptSet:
    """Write the PromptSet of the file at `prompts` into `out`, which is the step's own and is replaced.

    A file in a folder that DVC tracks (data/ beside data.dvc) is checked against the md5 that data.dvc states, and
    where it came from is written into the PromptSet. The files at hand are fetched with `dvc pull` if they are missing
    or belong to another version; an edit that DVC has not stored is never replaced. A repository that cannot be written
    to, as in an image, is cloned first, since DVC writes into it.

    Args:
        prompts: Path of the file; a relative one starts at the working directory.
        data_revision: Git revision (commit, branch, tag) whose data.dvc is taken, into a folder of its own: the working
            tree stays as it is. "" takes the working tree's.
        out: Folder of the PromptSet.

    Raises:
        UserError: the revision or the file at that revision does not exist or cannot be fetched, the file is not the
            one that data.dvc states, a revision is given for a file that is not under DVC, or the prompts are not
            usable (see `drtune.prompts.prepare.prepare`).
    """
    prepared = _prepare(prompts, data_revision, out)
    print(prepared.told)
    return prepared


def refuse_absent(prompts: str) -> None:
    """Refuse a prompts file that is neither here nor under DVC, before anything is replaced for it.

    Raises:
        UserError: it is not.
    """
    if not Path(prompts).exists() and _pointer(Path(prompts).resolve()) is None:
        raise UserError(f"prompts {prompts}: not there; give the path of a file")


def _pointer(path: Path) -> Path | None:
    """The file by which DVC tracks the folder of a prompts file, if it does."""
    return next((file for folder in path.parents if (file := Path(f"{folder}.dvc")).is_file()), None)


def _prepare(prompts: str, data_revision: str, out: Path) -> PromptSet:
    path = Path(prompts).resolve()
    pointer = _pointer(path)
    if pointer is None:
        if data_revision:
            raise UserError(f"data_revision={data_revision!r}: {prompts} is in no folder under DVC; leave it empty")
        return prepare(Path(prompts), out, overwrite=True)
    if not os.access(pointer.parent, os.W_OK):
        with tempfile.TemporaryDirectory() as scratch:
            return prepare_prompts(str(_clone(path, pointer, Path(scratch))), data_revision, out)
    if not data_revision:
        return prepare(path, out, data=_check_out(path, pointer), overwrite=True)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = Path(scratch) / path.name
        return prepare(fetched, out, data=_fetch(path, pointer, data_revision, fetched), overwrite=True)


def _clone(path: Path, pointer: Path, scratch: Path) -> Path:
    """Clone the repository around `pointer` and return where `path` is, or will be, in the clone."""
    root = _git(pointer.parent, "rev-parse", "--show-toplevel")
    if root is None or _git(scratch, "clone", "--quiet", root, "repository") is None:
        raise UserError(
            f"prompts {path}: {pointer.parent} can neither be written to, as DVC must, nor cloned with git; "
            "give it to the user who runs this"
        )
    return scratch / "repository" / path.relative_to(root)


def _check_out(path: Path, pointer: Path) -> DataSource:
    """See to it that `path` is what the working tree's `pointer` states."""
    root, name = pointer.parent, path.relative_to(pointer.parent).as_posix()
    md5 = _stated_md5(root, name)
    if not path.is_file() or _md5(path) != md5:
        try:
            _dvc(root, "pull", pointer.name)
        except UserError as error:
            raise UserError(
                f"prompts {name}: not the version that {pointer.name} states, and {error}; if you edited it, run "
                f"`dvc add {pointer.stem}` to keep that or `dvc pull --force {pointer.name}` to undo it"
            ) from None
    stated = pointer.read_text(encoding="utf-8")
    commit = _git(root, "rev-parse", "HEAD")
    if commit and _git(root, "show", f"{commit}:./{pointer.name}") != stated.strip():
        commit = None  # this version of the data was not committed yet
    return _source(path, md5, name, stated, commit)


def _fetch(path: Path, pointer: Path, revision: str, fetched: Path) -> DataSource:
    """Write `path` as `pointer` stated it at a git revision to `fetched`."""
    root, name = pointer.parent, path.relative_to(pointer.parent).as_posix()
    commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    stated = commit and _git(root, "show", f"{commit}:./{pointer.name}")
    if not stated:
        raise UserError(
            f"data_revision={revision!r}: no commit, branch or tag with a {pointer.name} in {root}; "
            f"`git log {pointer.name}` lists those that changed it"
        )
    md5 = _stated_md5(root, name, f"--rev={commit}")
    _dvc(root, "get", ".", name, f"--rev={commit}", f"--out={fetched}")
    return _source(fetched, md5, name, stated, commit)


def _stated_md5(root: Path, name: str, *revision: str) -> str:
    """Ask DVC which md5 it states for a file."""
    folder = name.split("/")[0]
    try:
        [entry] = json.loads(_dvc(root, "ls", ".", name, "--show-hash", "--json", *revision))
    except UserError as error:
        raise UserError(
            f"prompts {name}: not found in what {folder}.dvc states ({error}); `dvc ls . {folder}` lists what is there"
        ) from None
    if entry["md5"] is None:
        raise UserError(
            f"prompts {name}: not in the version that {folder}.dvc states; add it with `dvc add {folder}`, "
            f"or move it out of {folder}/"
        )
    return str(entry["md5"])


def _source(file: Path, md5: str, name: str, stated: str, commit: str | None) -> DataSource:
    if (found := _md5(file)) != md5:
        raise UserError(f"prompts {name}: has md5 {found}, DVC states {md5}; run `dvc pull --force` to restore it")
    return DataSource(
        path=name,
        sha256=sha256_file(file),
        git_revision=commit,
        dvc_md5=yaml.safe_load(stated)["outs"][0]["md5"],
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


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


def _git(root: Path, *arguments: str) -> str | None:
    """Run git and return what it prints; None if it fails, as it does outside of a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

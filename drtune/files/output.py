"""The place of a command's output: for one run at a time, never what it is made from, and never what is not ours."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drtune.errors import UserError
from drtune.files.local import is_text, local_path, read_given, write_text
from drtune.files.scratch import clear_killed, scratch_beside

MARK = "drtune.json"
"""What tells that a folder is ours when it has no manifest, or none yet."""
KINDS = frozenset(
    {
        "Decision",
        "DriftVerdict",
        "EvaluationReport",
        "MergedPipeline",
        "PipelineRun",
        "PromptSet",
        "RegistryEntry",
        "SampleSet",
        "SeedsResult",
        "Study",
        "StudyResult",
        "Sweep",
        "TrainingRun",
        "TunedModel",
    }
)
"""What our folders say that they are, in `manifest.json` or in their mark; no other folder is ever replaced."""
LONGEST_NAME = 220
"""Bytes; file systems take 255, and what is written beside an output has a longer name than it."""


@contextmanager
def claimed(
    path: str | Path, kind: str | None, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """Yield where output may be written to, with links and `..` resolved; within, no other run may write there.

    Args:
        path: where it is to be written.
        kind: which of KINDS the output is; None: it is a file.
        overwrite: whether something may stand there: a file, or a folder of this kind.
        inputs: what the output is made from: paths, file:// and s3://.

    Raises:
        UserError: it is, holds, or lies in an input; something stands there already, with `overwrite` something else
            than such an output; another run is writing there; or the place cannot be written to.
    """
    place, real = resolved(path)
    for given in inputs:
        _refuse_input(place, real, given)
    with ExitStack() as held:
        try:
            if real.exists() and not (real.is_file() or real.is_dir()):  # before anything is written beside it
                raise UserError(
                    f"output {place}: is no file and no folder, which is never replaced; give another place"
                )
            real.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(real))
            clear_killed(real)
        except OSError as error:
            raise UserError(f"output {place}: cannot be written ({error.strerror}); give another place") from None
        _refuse_taken(place, kind, overwrite=overwrite)
        yield place


@contextmanager
def unless_begun(out: Path, *beside: Path) -> Iterator[None]:
    """Within, files and folders are written beside an output; if it fails before that is a new one, they are as before.

    So what is refused late leaves nothing, and what stands at `out` keeps what belongs to it.
    """
    before, copies = id_of(out), {}
    beside = tuple(Path(os.path.realpath(place)) for place in beside)
    with ExitStack() as held:
        for place in beside:
            if place.exists():
                copies[place] = held.enter_context(scratch_beside(place)) / place.name
                (shutil.copytree if place.is_dir() else shutil.copyfile)(place, copies[place])
        try:
            yield
        except BaseException:
            for place in beside if id_of(out) == before else ():
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)
                if place in copies:
                    copies[place].replace(place)
            raise


def resolved(path: str | Path) -> tuple[Path, Path]:
    """The path as it is given, if nothing in it has to be resolved, else as the second: absolute, and without links.

    Raises:
        UserError: no output can have that name.
    """
    if not is_text(str(path)):
        raise UserError(f"output {str(path)!a}: no file can have such a name everywhere; give another")
    if re.match(r"[A-Za-z][\w+.-]*:/", str(path)):
        raise UserError(f"output {path}: is an address; give the path of a file or folder on this machine")
    real, plain = Path(os.path.realpath(path)), Path(os.path.normpath(path))
    if (count := len(real.name.encode())) > LONGEST_NAME:
        raise UserError(f"output {path}: has a name of {count} bytes; give one of at most {LONGEST_NAME}")
    return (plain if plain.name and plain.absolute() == real else real), real


def _refuse_input(place: Path, real: Path, given: str | Path | None) -> None:
    if not given or urlsplit(str(given)).scheme not in ("", "file"):
        return
    source = Path(os.path.realpath(local_path(given)))
    if real == source:
        raise UserError(f"output {place}: is what it would be made from; give another place")
    if real in source.parents:
        raise UserError(f"output {place}: holds {given}, which it would be made from; give another place")
    if source in real.parents:
        raise UserError(f"output {place}: lies in {given}, which it would be made from; give another place")


def _refuse_taken(place: Path, kind: str | None, *, overwrite: bool) -> None:
    if not place.exists() or (kind and place.is_dir() and not any(place.iterdir())):
        return
    found, wanted = ("folder" if place.is_dir() else "file"), ("folder" if kind else "file")
    if found != wanted:
        raise UserError(f"output {place}: is a {found}, and what is to be written is a {wanted}; give another place")
    if not overwrite:
        raise UserError(f"output {place}: exists already; give --overwrite to replace it, or another place")
    if kind and (other := kind_of(place)) != kind:
        holds = f"a {other}, and no {kind}" if other else "files that drtune did not write"
        raise UserError(f"output {place}: holds {holds}; give another place")


@contextmanager
def locked(path: Path, flock: Callable[[Any, int], None] = fcntl.flock) -> Iterator[None]:
    """Hold the lock of an output, a file beside it that is gone afterwards.

    The kernel lets a lock go with its process, so that one that was killed blocks nobody.

    Raises:
        UserError: another process, or another thread of this one, holds it.
        OSError: the file cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise UserError(
                f"output {path}: is being written by {holder}; wait for it, or give another place"
            ) from None
        except OSError as error:
            _tell_once(f"{path.parent}: has no locks ({error.strerror}); see to it that no two runs write to one place")
        if lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()  # the one who held it has removed it meanwhile
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is let go: nobody else can have it
        file.close()


@cache
def _tell_once(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def mark(folder: Path, kind: str) -> None:
    """Tell that a folder is ours, by a kind and an id of its own, unless it tells that already."""
    if not (folder / MARK).exists():
        write_text(folder / MARK, json.dumps({"kind": f"{kind}/1", "id": uuid.uuid4().hex}) + "\n")


def kind_of(folder: Path) -> str | None:
    """Which of KINDS a folder is, as its mark or its manifest says; None: it is not ours."""
    for name in (MARK, "manifest.json"):
        match = re.fullmatch(r"(\w+)/\d+", str(_about(folder / name).get("kind")))
        if match and match[1] in KINDS:
            return match[1]
    return None


def id_of(folder: Path) -> str | None:
    """The id in a folder's mark; None: it has no mark."""
    return _about(folder / MARK).get("id")


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(read_given(path))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def base_folder(base_model: str) -> Path | None:
    """The folder of a base, if it is one on this machine and not a name."""
    return Path(base_model) if base_model != "miniature" and Path(base_model).is_dir() else None

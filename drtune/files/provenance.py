"""Which code did this, as git knows it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def code_revision() -> str | None:
    """The commit of the running code, with "-dirty" after it if files differ; None when it cannot be known.

    An image has no git folder: it states its commit in DRTUNE_CODE_REVISION. What pip installed may lie in a
    repository that is of something else, and does not track this file.
    """
    if stated := os.environ.get("DRTUNE_CODE_REVISION"):
        return stated
    folder, name = Path(__file__).parent, Path(__file__).name
    if git(folder, "ls-files", "--error-unmatch", name) is None:
        return None
    return git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def git(folder: Path, *arguments: str) -> str | None:
    """Run git in a folder and return what it prints; None if it fails, as it does outside of a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

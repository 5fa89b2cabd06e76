"""Which code did this."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def code_revision() -> str | None:
    """The commit of the running code, with "-dirty" after it if files differ; None when it cannot be known.

    An image has no git folder: it states its commit in DRTUNE_CODE_REVISION.
    """
    if stated := os.environ.get("DRTUNE_CODE_REVISION"):
        return stated
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()

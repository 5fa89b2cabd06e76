"""End a run: its outcome in words, and no job left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kfp import dsl

from components.train.environment import RUN_ID
from components.train.launch import end_job
from drtune.files.local import write_text

NEXT = {
    "SUCCEEDED": "Whether the model is published, and why, stands in the decision's report.",
    "FAILED": "Its last lines in the log say why. Mend that, and start another one.",
    "CANCELLED": "Nothing was published by it after that.",
}


def finish_run(
    status: dsl.PipelineTaskFinalStatus,
    cluster: str,
    cluster_overrides: Sequence[str],  # noqa: ARG001 the job is found by its name alone
    out: str,
) -> None:
    """Write the outcome in Markdown to `out` and print it; on a cluster, delete the training job if it is still there.

    Raises:
        UserError: the cluster cannot be asked, or does not allow it.
    """
    lines = [f"# {status.state.capitalize()}", NEXT.get(status.state, "")]
    if status.error_message:
        lines.append("    " + "\n    ".join(status.error_message.splitlines()))
    if cluster and (deleted := end_job(os.environ[RUN_ID])):
        lines.append(f"The training job {deleted} was still there and is deleted.")
    text = "\n\n".join(filter(None, lines)) + "\n"
    write_text(Path(out), text)
    print(text, flush=True)

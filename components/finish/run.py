"""End a run: no job left behind, its outcome in words, and a message to whoever waits for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kfp import dsl

from components.finish.ask import Known, look
from components.finish.ending import Ending, ending_of
from components.finish.webhook import send
from components.train.cluster import ConflictError
from components.train.environment import RUN_ID
from components.train.launch import end_job
from drtune.errors import UserError
from drtune.files.local import write_text

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


def finish_run(
    status: dsl.PipelineTaskFinalStatus,
    cluster: str,
    registry: str,
    name: str,
    out: str,
    environment: Mapping[str, str] = os.environ,
    client: ApiClient | None = None,
) -> None:
    """Delete a training job that is still there, write the outcome in Markdown to `out`, send it, and print it.

    The last line that is printed is `outcome: ` and the outcome in one line.
    """
    job = _job_left(run) if cluster and (run := environment.get(RUN_ID)) else ""  # first: it holds GPUs
    known = look(status, environment, client)
    ending = ending_of(known, registry, name, environment)
    links = [*ending.links, *_page(environment)]
    text = "\n\n".join(filter(None, [f"# {ending.word}", ending.sentence, job, _as_list(links)])) + "\n"
    write_text(Path(out), text)
    problem = send(_message(known, ending, links), environment)
    print(*filter(None, [job, *links, problem]), f"outcome: {ending.sentence}", sep="\n", flush=True)


def _job_left(run: str) -> str:
    """Delete the run's training job, and say so if there was one."""
    try:
        deleted = end_job(run)
    except (UserError, RuntimeError, ConflictError) as error:  # nothing may keep the outcome from being told
        return f"Whether a training job is left could not be seen: {error}"
    return f"The training job {deleted} was still there and is deleted." if deleted else ""


def _page(environment: Mapping[str, str]) -> list[str]:
    interface, run = environment.get("DRTUNE_UI_URL", "").rstrip("/"), environment.get(RUN_ID)
    return [f"run: {interface}/#/runs/details/{run}"] if interface and run else []


def _as_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _message(known: Known, ending: Ending, links: Sequence[str]) -> str:
    return "\n".join([f"drtune run {known.name or ''}".rstrip() + f": {ending.sentence}", *links])

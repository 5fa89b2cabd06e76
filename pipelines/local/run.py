"""A pipeline on this machine: compiled to YAML, or run without containers by kfp.local."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click
from kfp import compiler, local
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components.process import EARLIER
from drtune.errors import UserError
from drtune.files.output import claimed, mark
from drtune.files.progress import spell
from pipelines.local.display import Display, Failure
from pipelines.local.resume import begin, check_same

STEPS = "steps"
LOG = "pipeline.log"


def run_into(
    out: Path,
    pipeline: GraphComponent,
    arguments: dict[str, Any],
    ctx: click.Context,
    *,
    overwrite: bool,
    resume: bool = False,
    inputs: Iterable[str | None],
    state: Mapping[str, Any] | None = None,
) -> str:
    """Run the pipeline for a command: everything it makes is in `out`, with a link to each artifact that is a folder.

    Args:
        out: What an earlier run made there is replaced, and only that.
        pipeline: As `run_here`.
        arguments: As `run_here`.
        ctx: The command, which ends here when a step fails: exit code 2 for a mistake of the user, else 1.
        overwrite: Whether there may be an earlier run.
        resume: Whether that is gone on with: what it has finished is kept, and the step that was ended goes on.
        inputs: The files and folders among the arguments.
        state: What the run hangs on, which has to be the same to go on.

    Returns:
        How long it took, in words.

    Raises:
        UserError: `out` cannot be used.
    """
    started = time.monotonic()
    with claimed(out, "PipelineRun", overwrite=overwrite or resume, inputs=inputs) as place:
        if state is not None and resume:
            check_same(place, state)
        if not resume:
            _make_room(place)
        elif (place / STEPS).exists():
            click.echo(f"{out}: goes on; what is finished is kept")
        place.mkdir(exist_ok=True)
        mark(place, "PipelineRun")
        if state is not None:
            begin(place, state)
        with (place / LOG).open("a", encoding="utf-8") as log, _earlier(place / STEPS, pipeline.name):
            failure = run_here(pipeline, place / STEPS, arguments, sys.stdout, log, _by_links(out, pipeline.name))
        _link_artifacts(place, pipeline.name)
    if failure:
        click.echo(f"error: step {failure.step}: {failure.reason}", err=True)
        click.echo(f"(everything it wrote: {out / LOG})", err=True)
        ctx.exit(UserError.exit_code if failure.by_user else 1)
    return spell(time.monotonic() - started)


def _make_room(out: Path) -> None:
    """Remove what an earlier run made in `out`, and only that."""
    if out.exists():
        for link in filter(Path.is_symlink, out.iterdir()):
            link.unlink()
    (out / LOG).unlink(missing_ok=True)
    if (out / STEPS).exists():
        shutil.rmtree(out / STEPS)


@contextmanager
def _earlier(root: Path, pipeline: str) -> Iterator[None]:
    """Within, a step takes up what it left when it was ended; what is temporary, and was left by a kill, goes."""
    for scratch in root.glob("tmp-*"):
        shutil.rmtree(scratch, ignore_errors=True)
    runs = sorted(root.glob(f"{pipeline}-*"), reverse=True)
    os.environ[EARLIER] = "\n".join(str(run.resolve()) for run in runs)
    try:
        yield
    finally:
        os.environ.pop(EARLIER, None)


def _link_artifacts(out: Path, pipeline: str) -> None:
    """Make `out`/<artifact> lead to where kfp.local put it last: steps/<pipeline and time>/<step>/<artifact>."""
    found = sorted((out / STEPS).glob(f"{pipeline}-*/*/*"))
    # Others stand beside one that is being made.
    newest = {artifact.name: artifact for artifact in found if artifact.is_dir() and "." not in artifact.name}
    for name, artifact in newest.items():
        link, place = out / name, artifact.relative_to(out)
        if not (link.is_symlink() and link.readlink() == place):
            link.unlink(missing_ok=True)
            link.symlink_to(place, target_is_directory=True)


def _by_links(out: Path, pipeline: str) -> Callable[[str], str]:
    """What shortens a step's line by the links to the artifacts, each of which is there as soon as its artifact is."""
    places = {re.escape(str(place)) for place in (out / STEPS, (out / STEPS).resolve())}
    artifact = re.compile(rf"(?:{'|'.join(places)})/{pipeline}-[^/ ]+/[^/ ]+/")

    def shortened(line: str) -> str:
        _link_artifacts(out, pipeline)
        return artifact.sub(lambda _: f"{out}/", line)

    return shortened


def run_here(
    pipeline: GraphComponent,
    root: Path,
    arguments: dict[str, Any],
    terminal: TextIO,
    log: TextIO,
    reword: Callable[[str], str] = str,
) -> Failure | None:
    """Run the pipeline with every step as a process in this environment.

    Args:
        pipeline: What `@dsl.pipeline` made.
        root: Folder for the artifacts: <pipeline and time>/<step>/<artifact>.
        arguments: Values of the pipeline's parameters.
        terminal: Where the steps and their output are shown.
        log: Where everything is kept that the steps and kfp wrote.
        reword: What a line of a step is shown as.

    Returns:
        What stopped the run; None when it went through, whatever it came to.

    Raises:
        InterruptionError: a signal ended this process, and the step that ran has ended too.
    """
    with warnings.catch_warnings():
        # kfp warns of every image without "python" in its name; the images are not used here.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "Task .*: settings .* have no effect")  # what pods get does not count here
        with (
            _scratch(root) as scratch,
            _as_here(pipeline.pipeline_spec),
            Display(terminal, log, reword) as display,
        ):
            runner, workspace = local.SubprocessRunner(use_venv=False), f"{scratch}/workspace"
            local.init(runner, pipeline_root=str(root), workspace_root=workspace, enable_caching=True)
            try:
                pipeline(**arguments)
            except RuntimeError:
                if display.failure is None:  # kfp itself failed, not a step
                    raise
    return display.failure


@contextmanager
def _scratch(root: Path) -> Iterator[str]:
    """Where the steps put what is temporary: kfp leaves the code of each there."""
    root.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=root.resolve()) as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield folder
        finally:
            del os.environ["TMPDIR"]
            os.environ |= {"TMPDIR": before} if before else {}


@contextmanager
def _as_here(spec: PipelineSpec) -> Iterator[None]:
    """Without retries, which are for pods that went away; what is finished in a root is not done again there."""
    kept = PipelineSpec()
    kept.CopyFrom(spec)
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")
            # The last step, whose strategy is to run whatever came of the others, tells what came of them each time.
            task.caching_options.enable_cache = not task.trigger_policy.strategy
    try:
        yield
    finally:
        spec.CopyFrom(kept)


def compile_pipeline(pipeline: GraphComponent) -> str:
    """The pipeline as the YAML that Kubeflow is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")

"""A pipeline on this machine: compiled to YAML, or run without containers by kfp.local."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, TextIO

from kfp import compiler, local
from kfp.dsl.graph_component import GraphComponent

from pipelines.display import Display, Failure


def defaults(pipeline: GraphComponent) -> dict[str, Any]:
    """The pipeline's parameters and their default values."""
    return {name: parameter.default for name, parameter in pipeline.component_spec.inputs.items()}


def run_here(
    pipeline: GraphComponent, root: Path, arguments: dict[str, Any], terminal: TextIO, log: TextIO
) -> Failure | None:
    """Run the pipeline with every step as a process in this environment.

    Args:
        pipeline: What `@dsl.pipeline` made.
        root: Folder for the artifacts: <pipeline and time>/<step>/<artifact>.
        arguments: Values of the pipeline's parameters.
        terminal: Where the steps and their output are shown.
        log: Where everything is kept that the steps and kfp wrote.

    Returns:
        What stopped the run; None when it went through, whether the model was published or not.
    """
    with warnings.catch_warnings():
        # kfp warns of every image without "python" in its name; the images are not used here.
        warnings.simplefilter("ignore", RuntimeWarning)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        with Display(terminal, log) as display:
            try:
                pipeline(**arguments)
            except RuntimeError:
                if display.failure is None:  # kfp itself failed, not a step
                    raise
    return display.failure


def compile_pipeline(pipeline: GraphComponent) -> str:
    """The pipeline as the YAML that Kubeflow is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")

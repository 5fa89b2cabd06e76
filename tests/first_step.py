"""The body of a pipeline's first step, called as the pipeline does it by default."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl

from components.prepare_prompts.component import prepare_prompts


def run_first_step(prompts: str, registry: Path, made: dsl.Dataset) -> None:
    """Prepare `prompts` into the artifact `made`, for a model that shall be published in `registry`."""
    prepare_prompts.python_func(
        prompts=prompts,
        data_revision="",
        incoming="",
        config="configs/miniature.yaml",
        overrides=[],
        cluster="",
        cluster_overrides=[],
        references=[],
        evaluation_gpus="0",
        policy="configs/gate.yaml",
        registry=str(registry),
        name="some-model",
        model_registry="",
        prompt_set=made,
    )

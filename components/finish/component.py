"""The declaration of the step that ends a run."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def finish(
    status: dsl.PipelineTaskFinalStatus,
    cluster: str,
    registry: str,
    name: str,
    outcome: dsl.Output[dsl.Markdown],
) -> None:
    """Write what came of the run, tell it where that is wanted, and delete a training job that is still there.

    Args:
        status: What the steps came to; Kubeflow gives it.
        cluster: As the train step had it; empty: there was no job.
        registry: Where the model was to be published.
        name: Under which name.
        outcome: The run in a few lines.
    """
    from components.finish.run import finish_run

    finish_run(status, cluster, registry, name, outcome.path)

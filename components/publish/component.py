"""The step that publishes the tuned model."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def publish(
    model: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    registry: str,
    name: str,
    model_registry: str,
    entry: dsl.Output[dsl.Artifact],
) -> None:
    """Make the model a version of the registry and put it into production.

    Args:
        model: folder of a TunedModel.
        report: folder of its EvaluationReport.
        decision: folder of a Decision for publishing, made on that report.
        registry: a folder, file:// or s3://bucket/prefix; empty: the usual one.
        name: name of the model in the registry.
        model_registry: address of Kubeflow's, where the version is registered, too; empty: nowhere.
        entry: folder for the RegistryEntry.
    """
    from components.metadata import describe
    from components.publish.run import run

    describe(entry, run(model.path, report.path, decision.path, registry, name, model_registry, entry.path))

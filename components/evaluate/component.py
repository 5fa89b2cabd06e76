"""The declaration of the evaluation step."""

from kfp import dsl

from components.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate(
    prompts: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    overrides: list[str],
    references: list[str],
    registry: str,
    name: str,
    gpus: str,
    gpu_resource: str,
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Draw with the tuned model, its base and the model in production, and score them with references by every reward.

    Args:
        prompts: PromptSet whose held-out part is used.
        model: TunedModel.
        overrides: Differences from the model's evaluation settings, such as evaluation.max_prompts=64.
        references: Pictures to compare with, as NAME=PLACE: a folder, .zip or .tar with a manifest.csv.
        registry: Where the model in production is found: a folder, file:// or s3://bucket/prefix; empty: the usual one.
        name: Its name there; a model that was never published has no champion to beat.
        gpus: How many GPUs the step was to be given; "0" evaluates on the CPU.
        gpu_resource: What such a GPU is called in the cluster.
        report: EvaluationReport.
    """
    from components.evaluate.run import evaluate_model

    evaluate_model(prompts.path, model.path, overrides, references, registry, name, gpus, gpu_resource, report.path)

"""The declaration of the evaluation step."""

from kfp import dsl

from components.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate(
    prompts: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    overrides: list[str],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Sample base and tuned model on the held-out prompts and score both.

    Args:
        prompts: PromptSet whose held-out part is used.
        model: TunedModel.
        overrides: Differences from the model's evaluation settings, such as evaluation.max_prompts=64.
        report: EvaluationReport.
        page: The report's page, for the run's view.
    """
    from components.evaluate.run import evaluate_model

    evaluate_model(prompts, model, overrides, report, page)

"""The declaration of the deciding step."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def decide(
    report: dsl.Input[dsl.Artifact],
    policy: str,
    decision: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Say whether the tuned model may be published, and why.

    Args:
        report: EvaluationReport.
        policy: Path of a YAML file, such as configs/gate.yaml.
        decision: Decision, with the page and its summary beside it.
        page: The report with the verdict on top, for the run's view.
        summary: The same in a few lines.
        metrics: The candidate's means, and its gains and win rates over every opponent.

    Returns:
        Whether to publish.
    """
    from components.decide.run import decide_report

    return decide_report(report, policy, decision, page, summary, metrics)

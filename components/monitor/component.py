"""The declaration of the monitoring step."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def monitor(
    reference: str,
    incoming: str,
    scores: str,
    release_scores: str,
    policy: str,
    force: bool,
    verdict: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Say whether what comes in has drifted from what was trained on, and why.

    Args:
        reference: Prompts that were trained on: a PromptSet, a file or a folder; here, file:// or s3://.
        incoming: Prompts that come in, likewise.
        scores: Table of scores of pictures made now, or empty.
        release_scores: Table of scores at the last release, or empty.
        policy: Path of a YAML file, such as configs/monitor.yaml.
        force: Whether to train anew even if nothing has drifted.
        verdict: DriftVerdict.
        page: Evidently's report.
        summary: The verdict in words.
        metrics: The value of each check.

    Returns:
        Whether to train anew.
    """
    from components.monitor.run import monitor

    drifted = monitor(reference, incoming, scores, release_scores, policy, verdict, page, summary, metrics)
    return drifted or force

"""The pipeline that watches: incoming prompts, and the rewards of now, against what the model was tuned on."""

from kfp import dsl

from components.monitor.component import monitor as monitor_step
from components.pods import equip


@dsl.pipeline(name="monitor")
def monitor(
    reference: str,
    incoming: str,
    scores: str = "",
    release_scores: str = "",
    policy: str = "configs/monitor.yaml",
) -> None:
    """Say whether incoming prompts, and rewards where they are given, have drifted since the model was tuned.

    Args:
        reference: Prompts that were trained on: a PromptSet, a prompts file or a folder; a path, file:// or s3://.
        incoming: Prompts that come in: a prompts file, or a folder or S3 prefix whose prompts files are all read.
        scores: Table of scores of pictures made now (.csv or .parquet); empty compares prompts alone.
        release_scores: Table of scores at the last release; given together with scores.
        policy: YAML with the thresholds of the checks: a file in the image or on s3://, or its text.
    """
    watched = monitor_step(
        reference=reference,
        incoming=incoming,
        scores=scores,
        release_scores=release_scores,
        policy=policy,
        force=False,
    )
    equip(watched, cpu="2", memory="8Gi", hours=2, retries=2)

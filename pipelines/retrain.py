"""The pipeline for a schedule: watch what comes in, and tune when it has drifted."""

from kfp import dsl

from components.monitor.component import monitor
from components.pods import equip
from pipelines.tune import tune


@dsl.pipeline(name="retrain")
def retrain(
    reference: str,
    incoming: str,
    scores: str = "",
    release_scores: str = "",
    monitor_policy: str = "configs/monitor.yaml",
    force: bool = False,
    config: str = "configs/miniature.yaml",
    overrides: list[str] = [],  # noqa: B006 KFP stores the default in the compiled pipeline and takes nothing but a list
    cluster: str = "",
    cluster_overrides: list[str] = [],  # noqa: B006 likewise
    references: list[str] = [],  # noqa: B006 likewise
    evaluation_gpus: str = "0",
    evaluation_gpu_resource: str = "nvidia.com/gpu",
    policy: str = "configs/gate.yaml",
    registry: str = "",
    name: str = "miniature-symmetry",
    model_registry: str = "",
) -> None:
    """Look whether incoming prompts, or rewards, have drifted, and tune, compare and publish only if they have.

    Args:
        reference: Prompts that were trained on: a PromptSet, a prompts file or a folder; a path, file:// or s3://.
        incoming: Prompts that come in: a prompts file, or a folder or S3 prefix whose prompts files are all read. What
            is tuned on are both, each prompt once, on the side on which the reference has it.
        scores: Table of scores of pictures made now (.csv or .parquet); empty compares prompts alone.
        release_scores: Table of scores at the last release; given together with scores.
        monitor_policy: YAML with the thresholds of the checks: a file in the image or on s3://, or its text.
        force: Tune even if nothing has drifted.
        config: YAML with what differs from the default configuration, likewise.
        overrides: Single differences from that file, such as "steps=20" or "optimizer.learning_rate=1e-4".
        cluster: YAML that describes the job of a cluster, likewise; empty trains in the step itself.
        cluster_overrides: Single differences from that file, such as "nodes=4" or "queue=nightly".
        references: Pictures to compare with, as NAME=PLACE: a folder, .zip or .tar with a manifest.csv, also on S3.
        evaluation_gpus: GPUs of the evaluation on a cluster, "0" or "1".
        evaluation_gpu_resource: What such a GPU is called there, such as amd.com/gpu.
        policy: YAML with what the tuned model must achieve to be published, likewise.
        registry: Where models are published: s3://bucket/prefix, or on one machine a folder or file://; empty:
            s3://drtune/registry, on one machine runs/registry.
        name: Name under which the model is published.
        model_registry: Address of Kubeflow's model registry, where a published version is registered, too, such as
            http://model-registry-service.kubeflow:8080; empty: nowhere.
    """
    watched = monitor(
        reference=reference,
        incoming=incoming,
        scores=scores,
        release_scores=release_scores,
        policy=monitor_policy,
        force=force,
    )
    equip(watched, cpu="2", memory="8Gi", hours=2, retries=2)
    with dsl.If(watched.outputs["Output"] == True, name="drifted"):  # noqa: E712 builds the condition
        tune(
            prompts=reference,
            incoming=incoming,
            config=config,
            overrides=overrides,
            cluster=cluster,
            cluster_overrides=cluster_overrides,
            references=references,
            evaluation_gpus=evaluation_gpus,
            evaluation_gpu_resource=evaluation_gpu_resource,
            policy=policy,
            registry=registry,
            name=name,
            model_registry=model_registry,
        )

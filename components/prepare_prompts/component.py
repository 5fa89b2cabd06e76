"""The declaration of the first step."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def prepare_prompts(
    prompts: str,
    data_revision: str,
    incoming: str,
    config: str,
    overrides: list[str],
    cluster: str,
    cluster_overrides: list[str],
    references: list[str],
    evaluation_gpus: str,
    policy: str,
    registry: str,
    name: str,
    model_registry: str,
    prompt_set: dsl.Output[dsl.Dataset],
) -> None:
    """Check, de-duplicate and split the prompts of a file; first see what would stop the steps that come after.

    Args:
        prompts: Path of a .txt, .csv, .tsv, .json, .jsonl or .parquet file.
        data_revision: Git revision whose version of the data is taken; empty takes the one that is checked out.
        incoming: More prompts: a prompts file, or a folder or S3 prefix whose prompts files are all read; or empty.
        config: What will be trained.
        overrides: Differences from that.
        cluster: Where it will be trained.
        cluster_overrides: Differences from that.
        references: What it will be compared with.
        evaluation_gpus: How many GPUs that will have.
        policy: What it must achieve.
        registry: Where the model may be published in the end.
        name: Under which name.
        model_registry: Where it may be registered, too.
        prompt_set: PromptSet.
    """
    from pathlib import Path

    from components.checks import check_in_step
    from components.metadata import describe
    from components.prepare_prompts.run import prepare_prompts, tell_prospects

    check_in_step(
        config=config,
        overrides=overrides,
        cluster=cluster,
        cluster_overrides=cluster_overrides,
        references=references,
        evaluation_gpus=evaluation_gpus,
        policy=policy,
        registry=registry,
        name=name,
        model_registry=model_registry,
    )
    prepared = prepare_prompts(prompts, data_revision, Path(prompt_set.path), incoming)
    tell_prospects(prepared, policy, config, overrides)
    describe(prompt_set, prepared.model_dump(mode="json"))

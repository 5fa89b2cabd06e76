"""The declaration of the first step."""

from kfp import dsl

from components.images import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def prepare_prompts(
    prompts: str, data_revision: str, registry: str, name: str, prompt_set: dsl.Output[dsl.Dataset]
) -> None:
    """Check, de-duplicate and split the prompts of a file; first see whether the model could be published.

    Args:
        prompts: Path of a .txt, .csv, .tsv, .json, .jsonl or .parquet file.
        data_revision: Git revision whose version of the data is taken; empty takes the one that is checked out.
        registry: Where the model may be published in the end.
        name: Under which name.
        prompt_set: PromptSet.
    """
    from pathlib import Path

    from components.metadata import describe
    from components.prepare_prompts.run import prepare_prompts
    from components.registry import check_registry

    check_registry(registry, name)
    describe(prompt_set, prepare_prompts(prompts, data_revision, Path(prompt_set.path)).model_dump(mode="json"))

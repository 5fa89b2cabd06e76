"""The pipeline: prompts to a published model. It says what follows what; every step lives in its own component."""

from kfp import dsl, kubernetes

from components.decide.component import decide
from components.evaluate.component import evaluate
from components.prepare_prompts.component import prepare_prompts
from components.publish.component import publish
from components.train.component import train
from components.train.environment import POD_FIELDS, S3_KEYS, S3_SECRET


@dsl.pipeline(name="tune")
def tune(
    prompts: str = "data/miniature.jsonl",
    data_revision: str = "",
    config: str = "configs/miniature.yaml",
    overrides: list[str] = [],  # noqa: B006 KFP stores the default in the compiled pipeline and takes nothing but a list
    references: list[str] = [],  # noqa: B006 likewise
    cluster: str = "",
    cluster_overrides: list[str] = [],  # noqa: B006 likewise
    policy: str = "configs/gate.yaml",
    registry: str = "runs/registry",
    name: str = "miniature-symmetry",
) -> None:
    """Tune a text-to-image model on a reward, compare it with its base, and publish it when it deserves it.

    Args:
        prompts: Prompts file: .txt, .csv, .tsv, .json, .jsonl or .parquet.
        data_revision: Commit whose data.dvc the prompts are checked against; empty takes the one at hand.
        config: YAML file with what differs from the default configuration.
        overrides: Single differences from that file, such as "steps=20" or "optimizer.learning_rate=1e-4".
        references: Pictures to compare with, as NAME=PLACE: a folder, .zip or .tar with a manifest.csv.
        cluster: YAML file that describes the job of a cluster, such as configs/cluster.yaml; empty trains in the
            step itself.
        cluster_overrides: Single differences from that file, such as "nodes=4" or "queue=nightly".
        policy: YAML file with what the tuned model must achieve to be published.
        registry: Where models are published: a folder, file:// or s3://bucket/prefix.
        name: Name under which the model is published.
    """
    prepared = prepare_prompts(prompts=prompts, data_revision=data_revision)
    prepared.set_caching_options(False)  # a path says nothing of what the file holds today
    trained = train(
        prompts=prepared.outputs["prompt_set"],
        config=config,
        overrides=overrides,
        cluster=cluster,
        cluster_overrides=cluster_overrides,
    )
    kubernetes.use_secret_as_env(trained, S3_SECRET, S3_KEYS, optional=True)
    for variable, field in POD_FIELDS.items():
        kubernetes.use_field_path_as_env(trained, variable, field)
    model = trained.outputs["model"]
    evaluated = evaluate(
        prompts=prepared.outputs["prompt_set"],
        model=model,
        overrides=overrides,
        references=references,
        registry=registry,
        name=name,
    )
    evaluated.set_caching_options(False)  # the champion may have changed since
    report = evaluated.outputs["report"]
    decided = decide(report=report, policy=policy)
    with dsl.If(decided.outputs["Output"] == True, name="worthy"):  # noqa: E712 builds the condition, compares nothing
        published = publish(
            model=model, report=report, decision=decided.outputs["decision"], registry=registry, name=name
        )
        published.set_caching_options(False)  # it changes the registry, which may have moved on since

"""The pipeline: prompts to a published model. It says what follows what; every step lives in its own component."""

from kfp import dsl

from components.decide.component import decide
from components.evaluate.component import evaluate
from components.finish.component import finish
from components.images import TRAINER_IMAGE
from components.platform import Requests
from components.pods import equip, keep_its_node, let_load_from_the_hub, let_tell, let_use_gpus
from components.prepare_prompts.component import prepare_prompts
from components.publish.component import publish
from components.train.component import train
from components.train.environment import STEP_HOURS


@dsl.pipeline(name="tune")
def tune(
    prompts: str = "data/miniature.jsonl",
    data_revision: str = "",
    incoming: str = "",
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
    """Tune a text-to-image model on a reward, compare it with its base, and publish it when it deserves it.

    Args:
        prompts: Prompts file: .txt, .csv, .tsv, .json, .jsonl or .parquet, in the image or on s3://; or a data set of
            the hub, hf://datasets/owner/name; or lines with a prompt each; or a PromptSet, or a folder of such files.
        data_revision: Commit, branch or tag whose version of the data is taken; empty takes the one at hand.
        incoming: More prompts to tune on, such as came in since: a prompts file, or a folder or S3 prefix whose prompts
            files are all read.
        config: YAML with what differs from the default configuration: a file in the image or on s3://, or its text.
        overrides: Single differences from that file, such as "steps=20" or "optimizer.learning_rate=1e-4".
        cluster: YAML that describes the job of a cluster, likewise, such as configs/cluster.yaml; empty trains in the
            step itself.
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
    finished = finish(cluster=cluster, registry=registry, name=name)
    equip(finished, cpu="1", memory="1Gi", hours=0.5, retries=2)
    let_tell(finished)
    with dsl.ExitHandler(finished, name="run"):
        prepared = prepare_prompts(
            prompts=prompts,
            data_revision=data_revision,
            incoming=incoming,
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
        equip(prepared, cpu="1", memory="4Gi", hours=1, retries=2)

        prompt_set = prepared.outputs["prompt_set"]
        trained = train(
            prompts=prompt_set,
            config=config,
            overrides=overrides,
            cluster=cluster,
            cluster_overrides=cluster_overrides,
        )
        # What is set aside is for a step that waits for its job; one that trains itself takes what its node has left.
        waiting = Requests(cpu="100m", memory="512Mi")
        # A retry adopts the job, or goes on with its model.
        equip(trained, cpu="2", memory="8Gi", hours=STEP_HOURS, retries=1, requests=waiting)
        keep_its_node(trained)
        trained.set_env_variable("DRTUNE_TRAINER_IMAGE", TRAINER_IMAGE)  # of the job's nodes too

        model = trained.outputs["model"]
        evaluated = evaluate(
            prompts=prompt_set,
            model=model,
            overrides=overrides,
            references=references,
            registry=registry,
            name=name,
            gpus=evaluation_gpus,
            gpu_resource=evaluation_gpu_resource,
        )
        equip(evaluated, cpu="2", memory="8Gi", hours=12, retries=1)
        evaluated.set_memory_limit("32Gi")  # models pass through the main memory of a GPU's node
        let_use_gpus(evaluated, evaluation_gpus, evaluation_gpu_resource)
        let_load_from_the_hub(evaluated)
        keep_its_node(evaluated)

        report = evaluated.outputs["report"]
        decided = decide(report=report, policy=policy)
        equip(decided, cpu="1", memory="2Gi", hours=0.5, retries=2)

        with dsl.If(decided.outputs["Output"] == True, name="worthy"):  # noqa: E712 builds the condition
            published = publish(
                model=model,
                report=report,
                decision=decided.outputs["decision"],
                registry=registry,
                name=name,
                model_registry=model_registry,
            )
            equip(published, cpu="1", memory="4Gi", hours=1, retries=2)  # what was published is found again

"""The declaration of the training step."""

from kfp import dsl

from components.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train(
    prompts: dsl.Input[dsl.Dataset],
    config: str,
    overrides: list[str],
    cluster: str,
    cluster_overrides: list[str],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Tune a LoRA on the rewards of the configuration.

    Args:
        prompts: PromptSet whose training half is used.
        config: Path of a YAML file with differences from the defaults, such as configs/miniature.yaml.
        overrides: Differences from that file, such as steps=20.
        cluster: Path of a YAML file that describes the job of a cluster, such as configs/cluster.yaml; empty trains
            in this step.
        cluster_overrides: Differences from that file, such as nodes=4.
        model: TunedModel.
        metrics: Reward and updates done.
    """
    from components.train.run import train_model

    train_model(prompts, config, overrides, cluster, cluster_overrides, model, metrics)

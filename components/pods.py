"""What the pod of a step gets on a cluster; on one machine none of it counts."""

from __future__ import annotations

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineParameterChannel

from components.platform import PLATFORM, Requests
from components.train.environment import CERTIFICATES, POD_FIELDS, TRUST

S3_SECRET = "drtune-s3"
"""The Kubernetes secret with the keys of the S3 server."""
S3_KEYS = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
"""Its keys, and the environment variables that they become."""
HUB_SECRET, HUB_KEYS = "drtune-hub", {"HF_TOKEN": "HF_TOKEN"}
"""The secret with the token of the Hugging Face hub, for bases with restricted access."""
NEWS_SECRET, NEWS_KEYS = "drtune-news", {name: name for name in ("DRTUNE_WEBHOOK_URL", "DRTUNE_UI_URL")}
"""The secret that says whom the last step tells what came of a run, and where people look at runs."""
RETRY_AFTER_SECONDS = 60
MODELS = "/models"
"""Where a claim with weights of the hub is mounted."""


def equip(
    step: PipelineTask,
    *,
    cpu: str,
    memory: str,
    hours: float,
    retries: int,
    requests: Requests | None = None,
) -> PipelineTask:
    """Give a step its resources, its run's name, its keys of S3, a time limit and retries; say that it needs no root.

    Nothing is taken from Kubeflow's cache: a path says nothing of what is there today.

    Args:
        step: of a pipeline.
        cpu: what it may use, such as "2".
        memory: the same, such as "4Gi"; beyond it the pod is killed.
        hours: how long it may take before it counts as failed.
        retries: how often it is tried again; 0 where repeating is not safe, or would cost too much.
        requests: what is set aside for it, unless the site says otherwise; None: as much as it may use.
    """
    asked = PLATFORM.requests.get(step.name, requests or Requests(cpu=cpu, memory=memory))
    step.set_cpu_request(asked.cpu).set_cpu_limit(cpu).set_memory_request(asked.memory).set_memory_limit(memory)
    step.set_caching_options(False)
    for variable, field in POD_FIELDS.items():
        kubernetes.use_field_path_as_env(step, variable, field)
    kubernetes.use_secret_as_env(step, S3_SECRET, S3_KEYS, optional=True)
    kubernetes.set_security_context(step, run_as_user=PLATFORM.user, run_as_non_root=True)
    kubernetes.set_timeout(step, round(3600 * hours))
    if retries:
        # Argo counts it from the start of the first try, and ends the last one by it: it holds all tries and pauses.
        longest = round((retries + 1) * 3600 * hours) + retries * RETRY_AFTER_SECONDS + 3600
        step.set_retry(retries, f"{RETRY_AFTER_SECONDS}s", backoff_max_duration=f"{longest}s")
    if PLATFORM.image_pull_secrets:
        kubernetes.set_image_pull_secrets(step, list(PLATFORM.image_pull_secrets))
    if PLATFORM.ca_bundle:
        kubernetes.use_config_map_as_volume(step, PLATFORM.ca_bundle, CERTIFICATES)
    for variable, value in ((TRUST if PLATFORM.ca_bundle else {}) | PLATFORM.environment).items():
        step.set_env_variable(variable, value)
    for label, value in PLATFORM.node_selector.items():
        kubernetes.add_node_selector(step, label, value)
    for toleration in PLATFORM.tolerations:
        kubernetes.add_toleration(step, **toleration.model_dump())
    return step


def keep_its_node(step: PipelineTask) -> None:
    """Ask the cluster's autoscaler not to take the node of a long step away."""
    kubernetes.add_pod_annotation(step, "cluster-autoscaler.kubernetes.io/safe-to-evict", "false")


def let_load_from_the_hub(step: PipelineTask) -> None:
    """Give a step the token of the Hugging Face hub, where there is one, and the claim that keeps weights."""
    kubernetes.use_secret_as_env(step, HUB_SECRET, HUB_KEYS, optional=True)
    if PLATFORM.models_claim:
        kubernetes.mount_pvc(step, PLATFORM.models_claim, MODELS)
        step.set_env_variable("HF_HOME", MODELS)


def let_use_gpus(step: PipelineTask, count: PipelineParameterChannel, resource: PipelineParameterChannel) -> None:
    """Give a step GPUs, by parameters of the pipeline, and let it onto nodes that are kept for them."""
    step.set_accelerator_type(resource).set_accelerator_limit(count)
    kubernetes.add_toleration(step, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")


def let_tell(step: PipelineTask) -> None:
    """Give a step the address that it tells what came of the run, where there is one."""
    kubernetes.use_secret_as_env(step, NEWS_SECRET, NEWS_KEYS, optional=True)

"""What the pod of a step gets on a cluster; on one machine none of it counts."""

from __future__ import annotations

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components.images import USER_ID
from components.train.environment import POD_FIELDS

S3_SECRET = "drtune-s3"
"""The Kubernetes secret with the keys of the S3 server."""
S3_KEYS = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
"""Its keys, and the environment variables that they become."""
HUB_SECRET, HUB_KEYS = "drtune-hub", {"HF_TOKEN": "HF_TOKEN"}
"""The secret with the token of the Hugging Face hub, for bases with restricted access."""
RETRY_AFTER = "60s"


def equip(step: PipelineTask, *, cpu: str, memory: str, hours: float, retries: int) -> PipelineTask:
    """Give a step its resources, its run's name, its keys of S3, a time limit and retries; say that it needs no root.

    Args:
        step: of a pipeline.
        cpu: what it asks for and may use, such as "2".
        memory: the same, such as "4Gi"; beyond it the pod is killed.
        hours: how long it may take before it counts as failed.
        retries: how often it is tried again; 0 where repeating is not safe, or would cost too much.
    """
    step.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    for variable, field in POD_FIELDS.items():
        kubernetes.use_field_path_as_env(step, variable, field)
    kubernetes.use_secret_as_env(step, S3_SECRET, S3_KEYS, optional=True)
    kubernetes.set_security_context(step, run_as_user=USER_ID, run_as_non_root=True)
    kubernetes.set_timeout(step, round(3600 * hours))
    if retries:
        step.set_retry(retries, RETRY_AFTER)
    return step


def let_load_from_the_hub(step: PipelineTask) -> None:
    """Give a step the token of the Hugging Face hub, where there is one."""
    kubernetes.use_secret_as_env(step, HUB_SECRET, HUB_KEYS, optional=True)

"""What would stop a run, or make it worthless, looked for before it trains: by its command and by its first step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.monitor.policy import MonitorPolicy
from components.publish.model_registry import check_model_registry
from components.registry import check_registry, in_a_pod
from components.train.spec import load_spec, refuse_uneven
from drtune.config import load_config
from drtune.errors import UserError
from drtune.evaluation.places import check_reference, read_places
from drtune.files.given import is_on_s3, is_text_itself
from drtune.publishing.policy import Policy, refuse_unmeasured
from drtune.publishing.registry import check_name
from drtune.training.checks import base_commit, check_places, check_start


def check_parameters(
    given: Mapping[str, Any], *, elsewhere: bool, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Check the parameters of a pipeline and the files that they name; no service is asked but for such a file.

    Args:
        given: Values by name; what the pipeline does not have is not looked at.
        elsewhere: The run will be on another machine: files that are not here may be there, and what it can import is
            not known. S3 is asked where the run is.
        environment: What tells a pod of the run.

    Returns:
        What could not be checked, and what is odd, a line each.

    Raises:
        UserError: a key or a value is wrong, a file is not there, or the policy could never be fulfilled.
    """
    told: list[str] = []

    def can_be_read(given: str) -> bool:
        if not is_at_hand(given, elsewhere=elsewhere, environment=environment):
            told.append(f"{given} is not here: the run itself checks it")
            return False
        return True

    _check_values(given)
    places = read_places(given.get("references") or [])
    for name, place in places.items():
        if not is_on_s3(place) and can_be_read(place):
            check_reference(name, place)
    spec = None
    if given.get("cluster") and can_be_read(given["cluster"]):
        spec = load_spec(given["cluster"], given.get("cluster_overrides") or [])
    config = None
    if given.get("config") and can_be_read(given["config"]):
        config = load_config(given["config"], given.get("overrides") or [])
        if elsewhere:
            check_places(config, can_be_read)
            if given.get("evaluation_gpus") == "0" and config.base_model != "miniature":
                told.append(f"evaluation_gpus=0: {config.base_model} is evaluated without a GPU; 1 asks for one")
        else:
            check_start(config)
            if not spec:  # whose pods may have other folders, and another network
                base_commit(config, None)
        if spec:
            refuse_uneven(config, spec)
    if given.get("policy") and "config" in given and can_be_read(given["policy"]):
        policy = Policy.read(given["policy"])
        if config:
            refuse_unmeasured(policy, config, places)
    for name in ("monitor_policy", *(["policy"] if "config" not in given else [])):
        if given.get(name) and can_be_read(given[name]):
            MonitorPolicy.read(given[name])
    return told


def _check_values(given: Mapping[str, Any]) -> None:
    """Refuse values that are wrong whatever the files hold."""
    for name in ("overrides", "cluster_overrides", "references"):
        if wrong := [item for item in given.get(name) or [] if not isinstance(item, str)]:
            raise UserError(f'{name}: {json.dumps(wrong[0])} is no text; write it as "key=value"')
    for name, changes in (("config", "overrides"), ("cluster", "cluster_overrides")):
        if given.get(changes) and not given.get(name):
            raise UserError(f"{changes}: {name} is empty, and there is nothing to change; give {name}=FILE")
    if given.get("name") is not None:
        check_name(given["name"])
    if given.get("evaluation_gpus") not in (None, "0", "1"):
        raise UserError(f"evaluation_gpus={given['evaluation_gpus']}: wanted 0 or 1")


def is_at_hand(given: str, *, elsewhere: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what a parameter names can be read here, as it will be in the run, which may be `elsewhere`."""
    if is_text_itself(given) or not elsewhere or (is_on_s3(given) and in_a_pod(environment)):
        return True
    return not is_on_s3(given) and Path(given).exists()


def check_services(given: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> None:
    """Ask where the run will publish to and take its references from.

    Raises:
        UserError: it cannot publish there, the model registry does not answer, or there is no such reference.
    """
    check_registry(given["registry"], given["name"], environment)
    if address := given.get("model_registry"):
        check_model_registry(address, environment)
    for name, place in read_places(given["references"]).items():
        # In a pod another path may be one of a volume that the evaluation alone has.
        if is_on_s3(place) or not Path(place).is_absolute():
            check_reference(name, place, environment)


def check_in_step(environment: Mapping[str, str] = os.environ, **given: Any) -> None:
    """All of it, in the first step of a run. The policy's file is in the image of this step, others may be in another.

    Raises:
        UserError: as both.
    """
    check_services(given, environment)
    Policy.read(given["policy"])
    for line in check_parameters(given, elsewhere=in_a_pod(environment), environment=environment):
        print(line)

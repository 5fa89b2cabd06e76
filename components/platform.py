"""What a site gives the pods of its steps: a YAML file, named by DRTUNE_PLATFORM when the pipelines are compiled.

Training jobs have settings of their own (components/train/spec.py), which are read when a run starts.
"""

from __future__ import annotations

import os

from pydantic import Field

from components.images import USER_ID
from components.train.spec import Name, Quantity, Toleration, Variable
from drtune.config import load_section
from drtune.config.sections import Section


class Requests(Section):
    """What the scheduler sets aside for a step; it may use more, up to its limit."""

    cpu: Quantity
    memory: Quantity


class Platform(Section):
    """Settings of all steps; manifests/platform/ has examples."""

    user: int | None = USER_ID
    """null leaves it to the platform, as OpenShift wants it: a namespace there has users of its own."""
    image_pull_secrets: tuple[Name, ...] = ()
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[Toleration, ...] = ()
    requests: dict[str, Requests] = Field(default={})
    """By the name of the step, such as evaluate, instead of what the pipeline asks for."""
    environment: dict[Variable, str] = Field(default={})
    """Variables of all steps, such as HTTPS_PROXY and NO_PROXY; nothing secret."""
    ca_bundle: Name | None = None
    """A ConfigMap whose key ca-bundle.crt holds all certificates to trust, of the S3 server and of the hub."""
    models_claim: Name | None = None
    """A claim that the evaluation keeps weights of the hub on, such as drtune-models, writable for the steps' user;
    without one they are fetched anew by each evaluation, into the pod."""


PLATFORM = load_section(Platform, os.environ.get("DRTUNE_PLATFORM") or None)

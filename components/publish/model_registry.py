"""A published version in Kubeflow's model registry, where others look for models: what it is, where, and how good.

The model registry (Kubeflow Hub) keeps no files. The version there points at ours, which stays what counts.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from components.train.cluster import service_token
from drtune.contracts import EvaluationReport, RegistryEntry
from drtune.errors import UserError

if TYPE_CHECKING:
    from model_registry.core import ModelRegistryAPIClient

AUTHOR = "drtune"
SECONDS = 60.0
"""For all that is asked of it."""
ATTEMPTS = 5
"""To read; what writes is not repeated blindly, but the whole may be, at any time."""
T = TypeVar("T")


def check_model_registry(address: str, environment: Mapping[str, str] = os.environ) -> None:
    """See that the registry answers, before a model is tuned that would be registered there.

    In the environment KF_PIPELINES_SA_TOKEN_PATH names a file with a token, SSL_CERT_FILE one with certificates.

    Raises:
        UserError: it does not, it refuses us, or its client is not installed.
    """
    _ask(address, environment, lambda api: api.get_registered_models())


def register(entry: RegistryEntry, report: EvaluationReport, address: str) -> None:
    """Make a published version one of the model registry; what is there already stays, so that it can be repeated.

    Args:
        entry: The version.
        report: What it was published on.
        address: Of the registry, such as http://model-registry-service.kubeflow:8080.

    Raises:
        UserError: it does not answer, it refuses us, it has another version of that name, or its client is not
            installed.
    """
    _ask(address, os.environ, lambda api: _register(api, entry, facts_of(entry, report), address))


def facts_of(entry: RegistryEntry, report: EvaluationReport) -> dict[str, str | float]:
    """What the registry shows of a version: gains with their 95 % intervals, the decision, and where it came from."""
    facts: dict[str, str | float | None] = {
        "decision": "; ".join(check.reason for check in entry.decision.checks),
        "digest": entry.digest,
        "prompts_sha256": entry.model.prompts.sha256,
        "config_sha256": entry.model.config_sha256,
        "policy_sha256": entry.decision.policy_sha256,
        "cluster_sha256": entry.model.cluster_sha256,
        "weights_sha256": entry.model.weights_sha256,
        "code_revision": entry.model.code_revision,
        "base_model": entry.model.base_model,
        "base_revision": entry.model.base_revision,
    }
    for score in report.overall:
        gain = f"{score.measure}_gain_over_{score.opponent}"
        facts |= {gain: score.gain, f"{gain}_low": score.gain_low, f"{gain}_high": score.gain_high}
    return {name: fact for name, fact in facts.items() if fact is not None}


async def _register(
    api: ModelRegistryAPIClient, entry: RegistryEntry, facts: dict[str, str | float], address: str
) -> None:
    """Each of the three is looked for first: an earlier try may have got as far as any of them."""
    from model_registry.types import ModelArtifact, ModelVersion, RegisteredModel

    model = await api.get_registered_model_by_params(entry.name)
    model = model or await api.upsert_registered_model(RegisteredModel(name=entry.name, owner=AUTHOR))
    there = await api.get_model_version_by_params(model.id, entry.version)
    if there and (there.custom_properties or {}).get("digest") != entry.digest:
        raise UserError(
            f"model_registry {address}: has another {entry.name} {entry.version}; give `name` what is free there"
        )
    made = ModelVersion(name=entry.version, author=AUTHOR, custom_properties=facts)
    there = there or await api.upsert_model_version(made, model.id)
    if not await api.get_model_artifact_by_params(entry.name, there.id):
        artifact = ModelArtifact(name=entry.name, uri=entry.uri, model_format_name="diffusers")
        await api.upsert_model_version_artifact(artifact, there.id)


def _ask(address: str, environment: Mapping[str, str], question: Any) -> Any:
    if not address.startswith(("http://", "https://")):
        raise UserError(f"model_registry {address}: wanted an address such as http://model-registry-service:8080")
    try:
        from model_registry.core import ModelRegistryAPIClient
        from mr_openapi import Configuration
    except ImportError:
        raise UserError("model_registry: its client is not installed; pip install 'drtune[hub]'") from None
    configuration = Configuration(
        host=address.rstrip("/"),
        access_token=service_token(environment),
        ssl_ca_cert=environment.get("SSL_CERT_FILE"),
        retries=ATTEMPTS,
    )
    return asyncio.run(_explained(address, question(ModelRegistryAPIClient(configuration))))


async def _explained(address: str, question: Coroutine[Any, Any, T]) -> T:
    """Its answer; what keeps it from coming becomes a line."""
    from aiohttp import ClientError
    from mr_openapi.exceptions import ApiException, ForbiddenException, NotFoundException, UnauthorizedException

    where = f"model_registry {address}"
    try:
        async with asyncio.timeout(SECONDS):
            return await question
    except (UnauthorizedException, ForbiddenException) as error:
        raise UserError(
            f"{where}: refuses us ({error.status}); KF_PIPELINES_SA_TOKEN_PATH names the file with a token for it"
        ) from None
    except NotFoundException:
        raise UserError(
            f"{where}: has not what its client asks for; give the address of its REST API, and install the release of "
            f"model-registry that goes with it (here is {version('model-registry')})"
        ) from None
    except ApiException as error:
        raise UserError(f"{where}: answered {error.status}: {_message(error.body)}") from None
    except (ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: what answers is something else
        raise UserError(
            f"{where}: no answer of a model registry ({type(error).__name__}); is it up, and to be reached from here?"
        ) from None


def _message(body: str | None) -> str:
    try:
        return str(json.loads(body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return "without a reason"

"""A model registry of a test's own: what its REST API has for models, versions and artifacts, over real HTTP.

API/ is api/openapi/model-registry.yaml, CORE/ internal/core/ of kubeflow/model-registry at bd07139a60. Bodies are held
against the schemas there, which is stricter than the server; what it answers, the published client reads.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema

from tests.serving import JSON, Handler, RefusalError, Serving

Json = dict[str, Any]
ROOT = re.compile(r"/api/model_registry/v1(alpha3)?/")
"""API/13; clients from 0.3.12 on ask for v1, and send the same."""
IDENTITY = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}


def _value(kind: str, field: str, of: str) -> Json:
    """API/2248 to 2316."""
    properties = {field: {"type": of}, "metadataType": {"const": kind}}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


VALUES = [
    _value("MetadataStringValue", "string_value", "string"),
    _value("MetadataDoubleValue", "double_value", "number"),
]
BASE: Json = {
    "name": {"type": "string", "minLength": 1},
    "description": {"type": "string"},
    "externalId": {"type": "string"},
    "customProperties": {"type": "object", "additionalProperties": {"oneOf": VALUES}},
}
LIVE = {"enum": ["LIVE", "ARCHIVED"]}


def _schema(required: list[str], **more: Json) -> Json:
    return {"type": "object", "properties": BASE | more, "required": required, "additionalProperties": False}


MODEL = _schema(["name"], owner={"type": "string"}, state=LIVE)  # RegisteredModelCreate, API/2616
VERSION = _schema(  # ModelVersionCreate, API/2502
    ["name", "registeredModelId"], author={"type": "string"}, state=LIVE, registeredModelId=IDENTITY
)
ARTIFACT = _schema(  # ModelArtifact, which the schema of the version's artifacts asks for: API/1200 to 1227, API/2424
    ["name", "uri", "artifactType"],
    uri={"type": "string"},
    artifactType={"const": "model-artifact"},
    modelFormatName={"type": "string"},
    state={"enum": ["UNKNOWN", "PENDING", "LIVE", "MARKED_FOR_DELETION", "DELETED", "ABANDONED", "REFERENCE"]},
)


class ModelRegistryServer(Serving):
    """Starts on entry, ends on exit."""

    def __init__(self, token: str | None = None) -> None:
        super().__init__(_Handler)
        self.token = token
        self.models: list[Json] = []
        self.versions: list[Json] = []
        self.artifacts: list[Json] = []
        self.requests: list[str] = []
        self.faults: dict[str, tuple[int, str]] = {}
        """Status and body to answer such a "METHOD path" with, below ROOT."""

    def answer(self, request: str, query: dict[str, str], body: Any) -> Json:
        match request.replace(" ", "/").split("/"):
            case ["GET", "registered_models"]:
                return {"items": self.models, "size": len(self.models), "pageSize": 0, "nextPageToken": ""}
            case ["GET", "registered_model"]:
                return _found(self.models, "registered models", name=query["name"])
            case ["POST", "registered_models"]:
                return self._add(self.models, MODEL, body, {}, "name")
            case ["GET", "model_version"]:
                named = {"name": query["name"], "registeredModelId": query["parentResourceId"]}
                return _found(self.versions, "model versions", **named)
            case ["POST", "model_versions"]:
                return self._add(self.versions, VERSION, body, {}, "name", "registeredModelId")
            case ["GET", "model_artifact"]:
                return _found(self.artifacts, "model artifacts", name=query["name"], version=query["parentResourceId"])
            case ["POST", "model_versions", version, "artifacts"]:
                _found(self.versions, "model versions", id=version)
                return self._add(self.artifacts, ARTIFACT, body, {"version": version}, "name", "version")
        raise RefusalError(405, f"{request}: no such path")

    def _add(self, store: list[Json], schema: Json, body: Json, more: Json, *unique: str) -> Json:
        try:
            jsonschema.validate(body, schema)
        except jsonschema.ValidationError as error:
            raise RefusalError(400, error.message) from None
        made = body | more
        if any(all(one[key] == made[key] for key in unique) for one in store):
            # CORE/registered_model.go:48, CORE/model_version.go:54, CORE/artifact.go:105
            raise RefusalError(409, f"one with name {made['name']} already exists: conflict")
        store.append(made | {"id": str(len(self.models + self.versions + self.artifacts) + 1)})
        return store[-1]


def _found(store: list[Json], what: str, **named: str) -> Json:
    for one in store:
        if named.items() <= one.items():
            return one
    raise RefusalError(404, f"no {what} found for {named}: not found")  # CORE/model_version.go:170


class _Handler(Handler):
    server: ModelRegistryServer

    def _serve(self) -> None:
        api, url, body = self.server, urlsplit(self.path), self.body()
        request = f"{self.command} {ROOT.sub('', url.path)}"
        api.requests.append(request)
        if request in api.faults:
            status, text = api.faults[request]
            return self.send(status, JSON if text[:1] in "{[" else "text/html", text)
        if api.token and self.headers.get("Authorization") != f"Bearer {api.token}":
            return self.send(401, JSON, json.dumps({"code": "401", "message": "Unauthorized"}))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        try:
            answer = api.answer(request, query, json.loads(body or "null"))
            return self.send(201 if self.command == "POST" else 200, JSON, json.dumps(answer))
        except RefusalError as refusal:
            return self.send(refusal.status, JSON, json.dumps({"code": str(refusal.status), "message": str(refusal)}))

    do_GET = do_POST = _serve

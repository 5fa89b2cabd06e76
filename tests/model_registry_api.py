"""A model registry of a test's own: what its REST API has for models, versions and artifacts, over real HTTP.

API/ is api/openapi/model-registry.yaml, CORE/ internal/core/ of kubeflow/model-registry at bd07139a60. Bodies are held
against the schemas there, which is stricter than the server; what it answers, the published client reads.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema

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


class RefusalError(Exception):
    """Answered with this status, and with a body as API/1985 has it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ModelRegistryServer:
    """Starts on entry, ends on exit."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.models: list[Json] = []
        self.versions: list[Json] = []
        self.artifacts: list[Json] = []
        self.requests: list[str] = []
        self.faults: dict[str, tuple[int, str]] = {}
        """Status and body to answer such a "METHOD path" with, below ROOT."""

    def __enter__(self) -> ModelRegistryServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

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


class _Handler(BaseHTTPRequestHandler):
    api: ModelRegistryServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {ROOT.sub('', url.path)}"
        self.api.requests.append(request)
        if request in self.api.faults:
            return self._send(*self.api.faults[request])
        if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            return self._send(401, json.dumps({"code": "401", "message": "Unauthorized"}))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        try:
            answer = self.api.answer(request, query, json.loads(body or "null"))
            return self._send(201 if self.command == "POST" else 200, json.dumps(answer))
        except RefusalError as refusal:
            return self._send(refusal.status, json.dumps({"code": str(refusal.status), "message": str(refusal)}))

    do_GET = do_POST = _serve

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text[:1] in "{[" else "text/html")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_about: object) -> None:
        """Tests read `requests` instead."""

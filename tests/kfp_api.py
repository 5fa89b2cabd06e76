"""A Kubeflow Pipelines API of a test's own: the v2beta1 REST API over real HTTP, with state, in one thread a request.

Paths and messages are those that kfp_server_api 2.17 calls and reads. Where the real server is odd, so is this one: it
gives no reason for a failed task, lists Argo's drivers and executors among the tasks, and dates an end to come 1970.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

API = "/apis/v2beta1/"
Json = dict[str, Any]
BEGINNING = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
"""When everything here starts; each look at a run is a minute later."""
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14}
"""gRPC's codes, which stand in the body of an error."""


class Look(NamedTuple):
    """What one look at a run shows: its state, and the states of its steps."""

    state: str
    steps: Mapping[str, str] = MappingProxyType({})
    error: str | None = None


class RefusalError(Exception):
    """Answered with this status instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KfpServer:
    """Starts on entry, ends on exit.

    >>> with KfpServer() as server:
    ...     server.looks = [Look("RUNNING", {"train": "RUNNING"}), Look("SUCCEEDED", {"train": "SUCCEEDED"})]
    ...     subprocess.run(["drtune-pipeline", "submit", "--wait"], env=server.environment)
    """

    def __init__(
        self,
        *,
        multi_user: bool = False,
        token: str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.multi_user = multi_user
        self.token = token
        self._certificate, self._key = certificate, key
        self.looks: list[Look] = [Look("SUCCEEDED")]
        """What each look at any run shows, in turn; the last one stays."""
        self.misbehave: dict[str, Callable[[], tuple[int, str, str]]] = {}
        """For requests whose "METHOD path" matches the pattern: status, content type and body to answer with."""
        self.requests: list[str] = []
        """Each request as "METHOD path"."""
        self.tokens: list[str | None] = []
        self.logs: dict[str, str] = {}
        """What the log endpoint answers, by pod."""
        self.experiments: dict[str, Json] = {}
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.recurring: dict[str, Json] = {}
        self._looked: dict[str, int] = {}
        self._clock = 0

    def __enter__(self) -> KfpServer:
        handler = type("Handler", (_Handler,), {"api": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        scheme = "http"
        if self._certificate:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate, self._key)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.endpoint = f"{scheme}://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        token = {"KFP_EXISTING_TOKEN": self.token} if self.token else {}
        return {"KF_PIPELINES_ENDPOINT": self.endpoint} | token

    def refuse(self, pattern: str, status: int, message: str) -> None:
        """From now on answer such requests with an error of the API's own form."""
        self.misbehave[pattern] = lambda: (status, "application/json", _error_body(status, message))

    def show(self, pattern: str, page: str, status: int = 200) -> None:
        """From now on answer such requests with a web page."""
        self.misbehave[pattern] = lambda: (status, "text/html; charset=utf-8", page)

    def active(self, name: str) -> list[Json]:
        """The recurring runs of that name that would start runs."""
        return [job for job in self.recurring.values() if job["display_name"] == name and job["status"] == "ENABLED"]

    def now(self) -> str:
        self._clock += 1
        return _stamp(self._clock)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """The answer to a request whose path is below /apis/v2beta1/."""
        match method, re.split("[/:]", path):
            case "GET", ["healthz"]:
                return {"commit_sha": "0" * 40, "tag_name": "2.17.0", "multi_user": self.multi_user}
            case "GET", ["experiments"]:
                return self._listed("experiments", self.experiments, query)
            case "POST", ["experiments"]:
                self._refuse_twice(self.experiments, body["display_name"])
                return self._add(self.experiments, "experiment_id", {**body, "storage_state": "AVAILABLE"})
            case "GET", ["pipelines"]:
                return self._listed("pipelines", self.pipelines, query)
            case "GET", ["pipelines", identity]:
                return _found(self.pipelines, identity, "Pipeline")
            case "GET", ["pipelines", identity, "versions"]:
                _found(self.pipelines, identity, "Pipeline")
                mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == identity}
                return self._listed("pipeline_versions", mine, query)
            case "GET", ["pipelines", _, "versions", version]:
                return _found(self.versions, version, "PipelineVersion")
            case "POST", ["pipelines"]:
                self._refuse_twice(self.pipelines, body["display_name"])
                return self._add(self.pipelines, "pipeline_id", body)
            case "POST", ["pipelines", "upload_version"]:
                _found(self.pipelines, query["pipelineid"], "Pipeline")
                return self._add_version(query["pipelineid"], query["name"], body)
            case "POST", ["runs"]:
                self._check_job(body)
                return self._add(self.runs, "run_id", {**body, "state": "PENDING"})
            case "GET", ["runs"]:
                return self._listed("runs", {key: self._look(key, move=False) for key in self.runs}, query)
            case "GET", ["runs", identity]:
                return self._look(identity, move=True)
            case "POST", ["runs", identity, "terminate"]:
                _found(self.runs, identity, "Run")
                self.looks = [Look("CANCELED")]
                return {}
            case "POST", ["recurringruns"]:
                self._check_job(body)
                _check_cron(body["trigger"]["cron_schedule"]["cron"])
                status = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
                return self._add(self.recurring, "recurring_run_id", {**body, "status": status})
            case "GET", ["recurringruns"]:
                return self._listed("recurringRuns", self.recurring, query)
            case "GET", ["recurringruns", identity]:
                return _found(self.recurring, identity, "Job")
            case "DELETE", ["recurringruns", identity]:
                _found(self.recurring, identity, "Job")
                del self.recurring[identity]
                return {}
            case "POST", ["recurringruns", identity, ("enable" | "disable") as what]:
                _found(self.recurring, identity, "Job")["status"] = f"{what}d".upper()
                return {}
        raise RefusalError(404, "Not Found")

    def _add(self, store: dict[str, Json], key: str, value: Json) -> Json:
        identity = str(uuid.uuid4())
        store[identity] = {**value, key: identity, "created_at": self.now()}
        return store[identity]

    def _add_version(self, pipeline_id: str, name: str, package: bytes) -> Json:
        mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline_id}
        self._refuse_twice(mine, name)
        spec, *platform = yaml.safe_load_all(package)
        whole = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
        version = {"pipeline_id": pipeline_id, "display_name": name, "pipeline_spec": whole}
        return self._add(self.versions, "pipeline_version_id", version)

    def _refuse_twice(self, store: dict[str, Json], name: str) -> None:
        if any(one["display_name"] == name for one in store.values()):
            raise RefusalError(409, f"The name {name} already exists")

    def _check_job(self, body: Json) -> None:
        """As the server does: the experiment is there, and the pipeline has these parameters."""
        _found(self.experiments, body["experiment_id"], "Experiment")
        if reference := body.get("pipeline_version_reference"):
            whole = _found(self.versions, reference["pipeline_version_id"], "PipelineVersion")["pipeline_spec"]
        else:
            whole = body["pipeline_spec"]
        known = whole.get("pipeline_spec", whole)["root"].get("inputDefinitions", {}).get("parameters", {})
        if unknown := set(body["runtime_config"].get("parameters", {})) - set(known):
            raise RefusalError(400, f"Invalid input error: parameter {sorted(unknown)} is not an input of the pipeline")

    def _look(self, identity: str, *, move: bool) -> Json:
        run = _found(self.runs, identity, "Run")
        looked = self._looked.get(identity, 0)
        if move:
            self._looked[identity] = looked + 1
        look = self.looks[min(looked, len(self.looks) - 1)]
        shown = {**run, "state": look.state, "run_details": {"task_details": list(_tasks(look, looked))}}
        if look.error:
            shown["error"] = {"code": 13, "message": look.error}
        if look.state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"):
            shown["finished_at"] = _stamp(self._clock + looked)
        return shown

    def _listed(self, key: str, store: dict[str, Json], query: dict[str, str]) -> Json:
        """One page, newest first if asked for, of what the filter lets through."""
        chosen = [one for one in store.values() if _passes(one, query.get("filter", ""))]
        if experiment := query.get("experiment_id"):
            chosen = [one for one in chosen if one["experiment_id"] == experiment]
        chosen.sort(key=lambda one: str(one["created_at"]), reverse="desc" in query.get("sort_by", ""))
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        page: Json = {key: chosen[start : start + size], "total_size": len(chosen)}
        if start + size < len(chosen):
            page["next_page_token"] = str(start + size)
        return page


def _passes(one: Json, given: str) -> bool:
    predicates = json.loads(given)["predicates"] if given else []
    return all(one[predicate["key"]] == predicate["stringValue"] for predicate in predicates)


def _found(store: dict[str, Json], identity: str, kind: str) -> Json:
    if identity not in store:
        raise RefusalError(404, f"{kind} {identity} not found")
    return store[identity]


def _check_cron(cron: str) -> None:
    if len(cron.split()) not in (5, 6):  # five are taken for six without a day of the week: no mistake to this server
        raise RefusalError(400, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)")


def _stamp(minutes: float) -> str:
    return (BEGINNING + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def _tasks(look: Look, minute: int) -> Iterable[Json]:
    """The workflow's nodes: for each step its driver, the step and the executor below it."""
    names = {"tune-x7k2p": look.state, "root": look.state, "root-driver": "SUCCEEDED"}
    for number, (step, state) in enumerate(look.steps.items()):
        driver, executor = f"{step}-driver", f"tune-x7k2p-{number}"
        names |= {driver: "SUCCEEDED", step: state}
        yield _task("executor", state, number, minute)
        yield {**_task(step, state, number, minute), "child_tasks": [{"pod_name": executor}]}
        names.pop(step)
    for name, state in names.items():
        yield _task(name, state, 0, minute)


def _task(name: str, state: str, number: int, minute: int) -> Json:
    ended = state not in ("PENDING", "RUNNING")
    return {
        "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "display_name": name,
        "state": state,
        "start_time": _stamp(number / 1000),  # in their order, for durations in whole minutes
        "end_time": _stamp(minute) if ended else "1970-01-01T00:00:00Z",
    }


def _error_body(status: int, message: str) -> str:
    return json.dumps({"error": message, "code": CODES[status], "message": message, "details": []})


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *about: Any) -> None:
        """A client that hangs up, or does not trust the certificate, is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*about)


class _Handler(BaseHTTPRequestHandler):
    api: KfpServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {url.path}"
        self.api.requests.append(request)
        self.api.tokens.append(self.headers.get("Authorization"))
        for pattern, answer in self.api.misbehave.items():
            if re.search(pattern, request):
                return self._send(*answer())
        if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            return self._send(
                401, "application/json", _error_body(401, "Request header error: there is no user identity")
            )
        if log := re.fullmatch(r"/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", url.path):
            if log[1] in self.api.logs:
                return self._send(200, "text/plain", self.api.logs[log[1]])
            return self._send(500, "application/json", json.dumps({"error_message": "Failed to read logs"}))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        try:
            given = self._uploaded(body) if "/upload" in url.path else json.loads(body or "null")
            return self._send(
                200, "application/json", json.dumps(self.api.answer(self.command, url.path[len(API) :], query, given))
            )
        except RefusalError as refusal:
            return self._send(refusal.status, "application/json", _error_body(refusal.status, str(refusal)))

    do_GET = do_POST = do_DELETE = _serve

    def _uploaded(self, body: bytes) -> bytes:
        """The one file of a multipart form."""
        message = BytesParser().parsebytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body)
        [part] = [
            part for part in message.walk() if part.get_param("name", header="Content-Disposition") == "uploadfile"
        ]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        return content

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_about: object) -> None:
        """Tests read `requests` instead."""

"""A Kubeflow Pipelines API of a test's own: the v2beta1 REST API over real HTTP, with state, in one thread a request.

Paths and messages are those that kfp_server_api 2.17 calls and reads. Where the real server is odd, so is this one, as
recorded in tests/recordings/kubeflow: a cancelled run is FAILED, and a log that cannot be had is status 200 with the
error in the body; kfp_nodes.py has what is odd about tasks.

KFP/ is backend/src/apiserver/ of kubeflow/pipelines 2.17.0.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kfp_nodes import WORKFLOW, Json, Look, after_cancelling, node_id, nodes_of, pod_at, pod_name, stamp, tasks_of
from tests.serving import JSON, Handler, RefusalError, Serving

API = "/apis/v2beta1/"
THROUGH_KUBERNETES = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/"
"""Where Kubernetes' API server passes a request on to the service, which is in this namespace alone; without its
header Authorization, which it takes for its own (WithAuthentication of k8s.io/apiserver)."""
RECORDINGS = Path(__file__).parent / "recordings" / "kubeflow"
NO_SUCH_POD = (RECORDINGS / "log-of-a-pod-that-is-not-there.http").read_text(encoding="utf-8").split("\n\n", 1)[1]
KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "STRING": ("string", str),
    "BOOLEAN": ("bool", bool),
    "NUMBER_INTEGER": ("double or integer", (int, float)),
    "NUMBER_DOUBLE": ("double or integer", (int, float)),
    "LIST": ("list", list),
    "STRUCT": ("struct", dict),
}
"""What a parameter's value must be, and the server's word for it (KFP/template/v2_template.go:487)."""
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14}
"""gRPC's codes, which stand in the body of an error."""


class KfpServer(Serving):
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
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(_Handler, certificate)
        self.multi_user = multi_user
        self.token = token
        self.looks: list[Look] = [Look("SUCCEEDED")]
        """What each look at any run shows, in turn; the last one stays."""
        self.looks_again: list[Look] = [Look("SUCCEEDED")]
        """The same once one is tried again."""
        self.misbehave: dict[str, Callable[[], tuple[int, str, str]]] = {}
        """For requests whose "METHOD path" matches the pattern: status, content type and body to answer with."""
        self.requests: list[str] = []
        """Each request as "METHOD path"."""
        self.tokens: list[str | None] = []
        self.tag_name = "2.17.0"
        self.is_behind_the_interface = False
        """Whether it is asked through the user interface, which passes v1beta1 and v2beta1 on, and not v1alpha1."""
        self.logs: dict[str, str] = {}
        """What pods wrote that are there, by the id of their node."""
        self.archived: dict[str, str] = {}
        """What pods wrote that are gone, by the id of their node."""
        self.words: dict[str, str] = {}
        """What Argo says of nodes, by their id."""
        self.experiments: dict[str, Json] = {}
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.recurring: dict[str, Json] = {}
        self._looked: dict[str, int] = {}
        self._nodes: dict[str, list[Json]] = {}
        """Of Argo's workflow, by the run's id, as they were at the last look."""
        self._clock = 0

    @property
    def environment(self) -> dict[str, str]:
        token = {"KFP_EXISTING_TOKEN": self.token} if self.token else {}
        return {"KF_PIPELINES_ENDPOINT": self.url} | token

    def refuse(self, pattern: str, status: int, message: str) -> None:
        """From now on answer such requests with an error of the API's own form."""
        self.misbehave[pattern] = lambda: (status, JSON, _error_body(status, message))

    def show(self, pattern: str, page: str, status: int = 200) -> None:
        """From now on answer such requests with a web page."""
        self.misbehave[pattern] = lambda: (status, "text/html; charset=utf-8", page)

    def replay(self, recording: str, pipeline: str, *pods: str) -> str:
        """Have the recorded run of that name, of one of the recorded pipelines; returns its id.

        Of most runs the workflow was not recorded: `pods` are the names of nodes whose ids the run has.
        """
        run: Json = json.loads((RECORDINGS / f"run-{recording}.json").read_text(encoding="utf-8"))
        spec = json.loads((RECORDINGS / "pipelines.json").read_text(encoding="utf-8"))[pipeline]
        self.runs[run["run_id"]] = {**run, "pipeline_spec": spec}
        self._nodes[run["run_id"]] = [pod_at(name, "retry-system-container-impl") for name in pods]
        known = {
            child["pod_name"] for task in run["run_details"]["task_details"] for child in task.get("child_tasks", [])
        }
        assert known >= {node_id(name) for name in pods}
        if (workflow := RECORDINGS / f"workflow-{recording}.json").exists():
            self._nodes[run["run_id"]] = list(json.loads(workflow.read_text())["status"]["nodes"].values())
        return str(run["run_id"])

    def active(self, name: str) -> list[Json]:
        """The recurring runs of that name that would start runs."""
        return [job for job in self.recurring.values() if job["display_name"] == name and job["status"] == "ENABLED"]

    def now(self) -> str:
        self._clock += 1
        return stamp(self._clock)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """The answer to a request whose path is below /apis/v2beta1/."""
        match method, re.split("[/:]", path):
            case "GET", ["healthz"]:
                return {"commit_sha": "0" * 40, "tag_name": self.tag_name, "multi_user": self.multi_user}
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
                return self._add(self.runs, "run_id", {**body, "state": "PENDING", "state_history": []})
            case "GET", ["runs"]:
                return self._listed("runs", {key: self._look(key, move=False) for key in self.runs}, query)
            case "GET", ["runs", identity]:
                return self._look(identity, move=True)
            case "POST", ["runs", identity, "terminate"]:
                run = _found(self.runs, identity, "Run")
                self._history(run, "CANCELING")
                steps = self.looks[-1].steps
                self.looks = [Look("FAILED", {step: after_cancelling(state) for step, state in steps.items()})]
                return {}
            case "POST", ["runs", identity, "retry"]:
                # KFP/server/run_server.go:631, KFP/resource/resource_manager.go:1069 and GenerateRetryExecution in
                # backend/src/common/util/workflow.go:201: gRPC's Aborted, which is 409, unless it failed
                run = _found(self.runs, identity, "Run")
                if run["state_history"][-1]["state"] != "FAILED":
                    raise RefusalError(409, "Workflow must be Failed/Error to retry")
                self.looks, self._looked[identity] = self.looks_again, 0
                self._history(run, "RUNNING")  # runStore.UpdateRun, KFP/storage/run_store.go:618
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
        whole = self._package_of(body)
        known = whole.get("pipeline_spec", whole)["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body["runtime_config"].get("parameters", {})
        for name in known.keys() & given.keys():
            word, kind = KINDS[known[name]["parameterType"]]
            if not isinstance(given[name], kind) or (isinstance(given[name], bool) and kind is not bool):
                raise RefusalError(
                    400,
                    f"Invalid input error: input parameter {name} requires type {word}, but the input parameter is "
                    f"not of {word} value type",
                )
        if unknown := sorted(given.keys() - known.keys()):
            raise RefusalError(
                400, f"Invalid input error: parameter(s) provided are not required by pipeline: {', '.join(unknown)}"
            )

    def _package_of(self, job: Json) -> Json:
        if reference := job.get("pipeline_version_reference"):
            return dict(_found(self.versions, reference["pipeline_version_id"], "PipelineVersion")["pipeline_spec"])
        return dict(job["pipeline_spec"])

    def _look(self, identity: str, *, move: bool) -> Json:
        run = _found(self.runs, identity, "Run")
        if "run_details" in run:
            return run  # a recorded one
        looked = self._looked.get(identity, 0)
        if move:
            self._looked[identity] = looked + 1
        look = self.looks[min(looked, len(self.looks) - 1)]
        self._history(run, look.state)
        self._nodes[identity] = list(nodes_of(look, self._package_of(run)))
        shown = {**run, "state": look.state, "run_details": {"task_details": list(tasks_of(look, looked))}}
        if look.state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"):
            shown["finished_at"] = stamp(self._clock + looked)
        return shown

    def _history(self, run: Json, state: str) -> None:
        if not run["state_history"] or run["state_history"][-1]["state"] != state:
            run["state_history"].append({"update_time": stamp(self._clock), "state": state})

    def _log_of(self, run_id: str, pod: str) -> str | None:
        ids = {pod_name(node): node["id"] for node in self._nodes.get(run_id, []) if node["type"] == "Pod"}
        return self.logs.get(ids[pod]) if pod in ids else None

    def read(self, path: str, query: dict[str, str]) -> tuple[int, str, str] | None:
        """What is no part of the v2beta1 API of gRPC: logs, what Argo archived, and Argo's own workflow."""
        if log := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            if self.is_behind_the_interface:  # frontend/server/app.ts:372 to 426
                return 404, "text/html; charset=utf-8", f"<pre>Cannot GET {path}</pre>"
            return 200, "text/plain; charset=utf-8", self._log_of(log[1], log[2]) or NO_SUCH_POD
        if path == "/k8s/pod/logs" and self.is_behind_the_interface:
            # frontend/server/handlers/pod-logs.ts:117 to 130
            found = self._log_of(query["runid"], query["podname"]) if query["podnamespace"] == "kubeflow" else None
            return (200, "text/plain", found) if found else (500, "text/html", "Could not get main container logs: x")
        if archived := re.fullmatch(r"/apis/v2beta1/runs/[^/]+/nodes/([^/]+)/artifacts/main-logs:read", path):
            # KFP/server/run_artifact_server.go:47 to 110: base64 in JSON, or 404
            if archived[1] not in self.archived:
                error = {"error_message": "artifact not found: <nil>", "error_details": "artifact not found: <nil>"}
                return 404, "text/plain; charset=utf-8", json.dumps(error)
            data = base64.b64encode(self.archived[archived[1]].encode()).decode()
            return 200, JSON, json.dumps({"data": data})
        if run := re.fullmatch(r"/apis/v1beta1/runs/([^/]+)", path):
            # KFP/server/api_converter.go:1695: the workflow as it was reported last, as text
            nodes = {
                node["id"]: node | ({"message": self.words[node["id"]]} if node["id"] in self.words else {})
                for node in self._nodes.get(run[1], [])
            }
            manifest = json.dumps({"metadata": {"name": WORKFLOW}, "status": {"nodes": nodes}})
            detail = {"run": {"id": run[1]}, "pipeline_runtime": {"workflow_manifest": manifest}}
            return 200, JSON, json.dumps(detail)
        return None

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


def _error_body(status: int, message: str) -> str:
    return json.dumps({"error": message, "code": CODES[status], "message": message, "details": []})


class _Handler(Handler):
    server: KfpServer

    def _serve(self) -> None:
        api, url, body = self.server, urlsplit(self.path.removeprefix(THROUGH_KUBERNETES)), self.body()
        request = f"{self.command} {url.path}"
        api.requests.append(request)
        api.tokens.append(self.headers.get("Authorization"))
        for pattern, answer in api.misbehave.items():
            if re.search(pattern, request):
                return self.send(*answer())
        # with many users whoever asks for more than its health: KFP/main.go:510, KFP/resource/resource_manager.go:2321
        is_guarded = api.token or (api.multi_user and url.path != f"{API}healthz")
        if is_guarded and self.headers.get("Authorization") != f"Bearer {api.token}":
            return self.send(401, JSON, _error_body(401, "Request header error: there is no user identity"))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if (found := api.read(url.path, query)) is not None:
            return self.send(*found)
        try:
            given = self._uploaded(body) if "/upload" in url.path else json.loads(body or "null")
            return self.send(200, JSON, json.dumps(api.answer(self.command, url.path.removeprefix(API), query, given)))
        except RefusalError as refusal:
            return self.send(refusal.status, JSON, _error_body(refusal.status, str(refusal)))

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

"""A small Kubernetes API server of a test's own: real HTTP, real watches, the custom resources' schemas enforced.

It knows nothing of what an operator does: a test plays it (tests/operator.py). It can be told to misbehave. Where no
recording shows an answer, the line of the real server's source that it imitates is named beside it.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client import ApiClient, Configuration

from tests.cluster_schemas import KINDS, Object, schema_of, unknown_fields, validator_of
from tests.serving import JSON, Handler, Serving

GROUPS = {"pytorchjobs": "kubeflow.org/v1", "trainjobs": "trainer.kubeflow.org/v1alpha1"}
QUEUE = "kueue.x-k8s.io/queue-name"
FOREGROUND = "foregroundDeletion"
OWNERS = "ownerReferences"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Fault:
    """An answer that is given instead of the right one."""

    method: str
    path: str
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """The request is carried out first, and only its answer is lost."""
    message: str = "as the test wants it"


class Log:
    """What a container has written: lines with their times."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bytes]] = []
        self.closed = False


class ClusterApi(Serving):
    """Starts on entry, ends on exit."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.objects: dict[tuple[str, str], Object] = {}
        self.changes: list[tuple[int, str, str, Object]] = []
        self.logs: dict[str, Log] = {}
        self.version, self.oldest = 1, 0
        self.told: dict[str, int] = {}
        """The version up to which the watch of a collection has been sent all changes."""
        self.news = threading.Condition()  # its lock is taken by one thread more than once
        self.clock = now
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.generation = 0
        """Streams of an earlier one are broken off."""
        self.gone: set[str] = set()
        """The uids of objects that were removed."""
        self.collects = True
        """The garbage collector is at work."""
        self.log_limit = 0
        """A log stream ends early after so many lines."""
        self.kinds = set(KINDS)
        """The kinds of job that are installed."""
        self.lacking: set[str] = set()
        """Fields of a `spec` that the installed version of a kind does not have yet."""
        self.queued = set(KINDS)
        """The kinds that Kueue manages."""
        self.stopping = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._collect, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self.stopping = True
        with self.news:
            self.news.notify_all()
        super().__exit__(*error)

    def client(self) -> ApiClient:
        settings = Configuration()
        settings.host, settings.retries = self.url, False
        return ApiClient(settings)

    # --- what a test does ---------------------------------------------------------------------------------------------

    def fault(
        self, method: str, path: str, status: int, times: int = 1, *, after: bool = False, **headers: str
    ) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.faults.append(Fault(method, path, status, times, named, after))

    def break_streams(self) -> None:
        """Drop every watch and log stream that is open."""
        with self.news:
            self.generation += 1
            self.news.notify_all()

    def forget(self) -> None:
        """Compact the history: a watch from an earlier version is answered with 410."""
        with self.news:
            self.changes.clear()
            self.oldest = self.version

    def counted(self, method: str = "", path: str = "") -> int:
        return sum(method in asked and path in where for asked, where in self.requests)

    def of(self, plural: str) -> list[Object]:
        with self.news:
            return [copy.deepcopy(item) for (where, _), item in self.objects.items() if where.endswith(plural)]

    def put(self, collection: str, item: Object, kind: str = "") -> Object:
        """Create or replace an object, as a controller does."""
        with self.news:
            name = item["metadata"]["name"]
            kind = kind or ("MODIFIED" if (collection, name) in self.objects else "ADDED")
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            item["metadata"].setdefault("uid", str(uuid.uuid4()))
            item["metadata"].setdefault("creationTimestamp", self.clock())
            self.objects[collection, name] = item
            self.changes.append((self.version, collection, kind, copy.deepcopy(item)))
            self.news.notify_all()
            return item

    def remove(self, collection: str, name: str) -> None:
        """An object goes at once; what it owned is left to the garbage collector."""
        with self.news:
            item = self.objects.pop((collection, name))
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            self.changes.append((self.version, collection, "DELETED", item))
            self.gone.add(item["metadata"]["uid"])
            self.news.notify_all()

    def _collect(self) -> None:
        """Take what the owner of is gone, or waits for that; and then who waits.

        As kubernetes v1.34 pkg/controller/garbagecollector/garbagecollector.go does it (attemptToDeleteItem and
        processDeletingDependentsItem): some time after the deletion.
        """
        while not self.stopping:
            time.sleep(0.05)
            with self.news:
                metas = {key: item["metadata"] for key, item in self.objects.items()} if self.collects else {}
                waiting = {meta["uid"]: key for key, meta in metas.items() if FOREGROUND in meta.get("finalizers", [])}
                ends = self.gone | waiting.keys()
                owned = [key for key, meta in metas.items() if ends & {own["uid"] for own in meta.get(OWNERS, [])}]
                for key in [*owned, *waiting.values()]:
                    self.remove(*key)

    def write(self, pod: str, *lines: str | bytes, time: str = "") -> None:
        with self.news:
            log = self.logs.setdefault(pod, Log())
            for line in lines:
                stamp = time or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{len(log.lines) % 1000:03}Z"
                log.lines.append((stamp, line.encode() if isinstance(line, str) else line))
            self.news.notify_all()

    def close_log(self, pod: str) -> None:
        with self.news:
            self.logs.setdefault(pod, Log()).closed = True
            self.news.notify_all()

    # --- what it answers ----------------------------------------------------------------------------------------------

    def created(self, collection: str, item: Object, query: dict[str, str]) -> tuple[int, Object]:
        plural = collection.rpartition("/")[2]
        if plural not in self.kinds:
            return _status(404, "the server could not find the requested resource")
        unknown = self._unknown(plural, item)
        if unknown and query.get("fieldValidation") == "Strict":
            # kubernetes v1.34 apiserver/pkg/endpoints/handlers/rest.go transformDecodeError, of the error that
            # apimachinery/pkg/runtime/error.go NewStrictDecodingError makes: one `unknown field` for each
            kind, version = item["kind"], item["apiVersion"].rpartition("/")[2]
            named = ", ".join(f'unknown field "{where}"' for where, _, _ in unknown)
            return _status(
                400,
                f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {named}',
            )
        for _, holder, key in unknown:  # without a word: apiextensions-apiserver/pkg/apiserver/schema/pruning
            del holder[key]
        if (collection, item["metadata"]["name"]) in self.objects:
            return _status(409, f"{plural} {item['metadata']['name']!r} already exists")
        for error in ((validator := validator_of(plural)) and validator.iter_errors(item)) or ():
            return _status(422, f"{plural} is invalid: {error.json_path}: {error.message}")
        if QUEUE in item["metadata"].get("labels", {}) and plural in self.queued:
            # kueue v0.19 pkg/controller/jobframework/defaults.go: "Jobs with queue names are default suspended"
            holder = item["spec"]["runPolicy"] if plural == "pytorchjobs" else item["spec"]
            holder["suspend"] = True
        if (
            query.get("dryRun") == "All"
        ):  # judged and changed as any other, and not stored: apiserver's registry/dryrun.go
            return 201, item
        return 201, self.put(collection, item)

    def _unknown(self, plural: str, item: Object) -> list[tuple[str, Object, str]]:
        schema = schema_of(plural)
        found = list(unknown_fields(item, schema)) if schema else []
        return found + [(f"spec.{key}", item["spec"], key) for key in sorted(self.lacking & item["spec"].keys())]

    def discovered(self, path: str) -> tuple[int, Object]:
        """The kinds of a group and version, as every server lists them; a group is there when a kind of it is."""
        group = path.removeprefix("/apis/")
        names = [plural for plural in sorted(self.kinds) if GROUPS[plural] == group]
        if not names:
            return _status(404, "the server could not find the requested resource")
        resources = [{"name": name, "namespaced": True} for plural in names for name in (plural, f"{plural}/status")]
        return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}

    def deleted(self, collection: str, name: str, options: Object) -> tuple[int, Object]:
        """It goes at once, or in the foreground stays until all that it owned is gone.

        kubernetes v1.34 apiserver/pkg/registry/generic/registry/store.go deletionFinalizersForGarbageCollection
        """
        with self.news:
            item = self.objects.get((collection, name))
            if item is None:
                return _status(404, f"{name!r} not found")
            if options.get("propagationPolicy") == "Foreground":
                marks = {"deletionTimestamp": now(), "finalizers": [FOREGROUND]}
                return 200, self.put(collection, {**item, "metadata": {**item["metadata"], **marks}})
            self.remove(collection, name)
            return 200, item

    def listed(self, collection: str, query: dict[str, str]) -> Object:
        with self.news:
            items = [copy.deepcopy(item) for (where, _), item in self.objects.items() if where == collection]
            return {
                "kind": "List",
                "metadata": {"resourceVersion": str(self.version)},
                "items": [item for item in items if _is_selected(item, query)],
            }

    def watched(self, collection: str, query: dict[str, str]) -> Iterator[bytes]:
        seen, generation = int(query["resourceVersion"]), self.generation
        if seen < self.oldest:
            yield _event("ERROR", _status(410, "too old resource version")[1])
            return
        ends_at = time.monotonic() + float(query.get("timeoutSeconds", "600"))
        while time.monotonic() < ends_at:
            with self.news:
                fresh = [change for change in self.changes if change[0] > seen]
                if not fresh and not self.stopping and generation == self.generation:
                    self.news.wait(min(0.5, max(0.0, ends_at - time.monotonic())))
            if self.stopping or generation != self.generation:
                raise ConnectionAbortedError
            for version, where, kind, item in fresh:
                seen = version
                if where == collection and _is_selected(item, query):
                    yield _event(kind, item)
            self.told[collection] = seen

    def logged(self, pod: str, query: dict[str, str]) -> Iterator[bytes]:
        log, generation, sent, count = self.logs.setdefault(pod, Log()), self.generation, 0, 0
        since = query.get("sinceTime", "")[:19]  # the kubelet knows seconds
        while True:
            with self.news:
                fresh, is_closed = log.lines[sent:], log.closed
                if not fresh and not is_closed and not self.stopping and generation == self.generation:
                    self.news.wait(0.5)
            if self.stopping or generation != self.generation:
                raise ConnectionAbortedError
            sent += len(fresh)
            lines = [stamp.encode() + b" " + line + b"\n" for stamp, line in fresh if stamp[:19] >= since]
            if self.log_limit and count + len(lines) >= self.log_limit:
                yield b"".join(lines[: self.log_limit - count])
                return
            count += len(lines)
            if lines:
                yield b"".join(lines)
            if is_closed and not fresh:
                return


class _Handler(Handler):
    server: ClusterApi

    def do_GET(self) -> None:
        parts, query = urlsplit(self.path), dict(parse_qsl(urlsplit(self.path).query))
        if self._misbehaves("GET"):
            return
        api = self.server
        if "/namespaces/" not in parts.path:
            self._answer(*api.discovered(parts.path))
            return
        collection, name = _split(parts.path)
        if query.get("watch") == "true":
            self._stream(api.watched(collection, query))
        elif parts.path.endswith("/log"):
            if (collection, name) in api.objects:
                self._stream(api.logged(name, query))
            else:
                self._answer(*_status(404, f"pods {name!r} not found"))
        elif name:
            item = api.objects.get((collection, name))
            self._answer(*((200, item) if item else _status(404, f"{name!r} not found")))
        else:
            self._answer(200, api.listed(collection, query))

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        self._change("POST", lambda body: self.server.created(parts.path, body, dict(parse_qsl(parts.query))))

    def do_DELETE(self) -> None:
        self._change("DELETE", lambda options: self.server.deleted(*_split(urlsplit(self.path).path), options))

    def _change(self, method: str, change: Any) -> None:
        body = json.loads(self.body() or b"{}")
        if not self._misbehaves(method):
            answer = change(body)
            if not self._misbehaves(method, after=True):
                self._answer(*answer)

    def _misbehaves(self, method: str, *, after: bool = False) -> bool:
        api = self.server
        if not after:
            api.requests.append((method, self.path))
        for fault in api.faults:
            if fault.times and fault.after == after and fault.method == method and fault.path in self.path:
                fault.times -= 1
                if fault.status == 0:
                    self.close_connection = True
                    self.connection.close()
                else:
                    self._answer(*_status(fault.status, fault.message), **fault.headers)
                return True
        return False

    def _answer(self, status: int, item: Object, **headers: str) -> None:
        self.send(status, JSON, json.dumps(item), **headers)

    def _stream(self, chunks: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # ours, or of a reader that went away: the connection breaks off in the midst of the answer
            self.close_connection = True


def _split(path: str) -> tuple[str, str]:
    """A path as its collection and the name of an object in it, empty for the collection itself."""
    parts = path.strip("/").split("/")
    after = parts.index("namespaces") + 2
    collection = "/" + "/".join(parts[: after + 1])
    return collection, parts[after + 1] if len(parts) > after + 1 else ""


def _is_selected(item: Object, query: dict[str, str]) -> bool:
    labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
    fields = dict(pair.split("=") for pair in query.get("fieldSelector", "").split(",") if pair)
    mine = item["metadata"].get("labels", {})
    flat = {"metadata.name": item["metadata"]["name"], "type": item.get("type")}
    flat["involvedObject.name"] = item.get("involvedObject", {}).get("name")
    return all(mine.get(key) == value for key, value in labels.items()) and all(
        flat[key] == value for key, value in fields.items()
    )


def _event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _status(code: int, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "message": message}

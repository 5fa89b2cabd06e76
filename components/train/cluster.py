"""The cluster's API as the launcher uses it: plain objects, patient with a server that is busy or away.

The kubernetes client does the connecting: certificates, tokens that are renewed, proxies.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.train.job import Manifest, Place
from drtune.errors import UserError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import BaseHTTPResponse

PATIENCE_SECONDS = 600.0
"""How long the API server may be away or refuse for being busy before the launcher gives up."""
WATCH_SECONDS = 240
"""A watch ends after so long and is opened again: a connection that died unnoticed is found out."""
QUIET_SECONDS = 600
"""A log stream without a line for so long is opened again, for the same reason."""
CONNECT_SECONDS = 10
LONGEST_PAUSE_SECONDS = 30.0
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the namespace and the token of its service account."""
_TRANSIENT = frozenset({0, 408, 429, 500, 502, 503, 504})


class ClusterError(RuntimeError):
    """The API server cannot be reached, or answers what nobody can mend here."""


class NotFoundError(Exception):
    """What was asked for is not there (any more)."""


class ConflictError(Exception):
    """There is one of that name already."""


class UnknownFieldError(Exception):
    """The cluster's version of a kind does not know fields that it was given; the message names them."""


class NotPermittedError(UserError):
    """Whoever asks has no right to; `said` is what the API server says of it."""

    def __init__(self, host: str, said: str) -> None:
        super().__init__(f"cluster {host}: {said}; grant it to the launcher's service account (docs/cluster.md)")
        self.said = said


class _InterruptedError(Exception):
    """The connection broke, or the server asks to try again."""

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


class NoClusterError(UserError):
    """There is no Kubernetes around this process, and no kubeconfig file."""


def connect() -> ApiClient:
    """The client of the cluster that this process runs in, or else of the kubeconfig file.

    Raises:
        NoClusterError: there is neither.
        UserError: the kubeconfig file cannot be used.
    """
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # Cluster tries again itself, and counts
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        kubeconfig = os.environ.get("KUBECONFIG") or "~/.kube/config"
        if not any(Path(path).expanduser().is_file() for path in kubeconfig.split(os.pathsep)):
            raise NoClusterError(
                "cluster: no Kubernetes to speak to, neither around this process nor by a kubeconfig file "
                f"({kubeconfig}: no such file); set KUBECONFIG, or leave `cluster` empty to train here"
            ) from None
        try:
            config.load_kube_config(kubeconfig, client_configuration=settings)
        except Exception as error:  # of any kind: what is no kubeconfig file fails wherever it happens to
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            fix = "mend it, or have KUBECONFIG name another"
            raise UserError(f"kubeconfig {kubeconfig}: cannot be used ({reason}); {fix}") from None
    return client.ApiClient(settings)


def own_namespace() -> str:
    """The namespace that this process runs in; `default` outside of a cluster."""
    return _read(_ACCOUNT / "namespace") or "default"


def service_token(environment: Mapping[str, str]) -> str | None:
    """A token of the pod: of its service account, or of the file that KF_PIPELINES_SA_TOKEN_PATH names; None: none."""
    return _read(Path(environment.get("KF_PIPELINES_SA_TOKEN_PATH") or _ACCOUNT / "token"))


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


class Cluster:
    """One namespace of a cluster. Safe to use from several threads; `close` ends what they wait for.

    Every call tries again for PATIENCE_SECONDS when the server is away, busy (429) or broken (5xx). Then it raises
    ClusterError. What the user can mend raises UserError: a missing permission, a kind that is not installed, a job
    that the cluster finds invalid.
    """

    def __init__(self, client: ApiClient, namespace: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.client, self.namespace, self.patience_seconds = client, namespace, patience_seconds
        self.host: str = client.configuration.host
        self.closed = threading.Event()
        self._open: set[BaseHTTPResponse] = set()

    def close(self) -> None:
        """End all watches and log streams."""
        self.closed.set()
        for response in list(self._open):
            with suppress(ValueError, RuntimeError, OSError):  # it has just ended by itself
                response.shutdown()

    def jobs(self, place: Place, name: str = "") -> str:
        """The path of jobs of a kind, or of one."""
        return f"/apis/{place.api}/namespaces/{self.namespace}/{place.plural}/{name}".rstrip("/")

    def core(self, plural: str) -> str:
        """The path of pods or events."""
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    # ------------------------------------------------------------------------------------------------------------------

    def read(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        """An object, or a list of them. Raises NotFoundError."""
        return self._patiently(lambda: self._call("GET", path, query or {}))

    def has(self, place: Place) -> bool:
        """Whether jobs of a kind can be made here."""
        try:
            resources = self.read(f"/apis/{place.api}")["resources"]
        except NotFoundError:
            return False
        return any(resource["name"] == place.plural for resource in resources)

    def create(self, path: str, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object; with `dry_run` only have the cluster judge it, and say what it would be.

        Raises:
            ConflictError: there is one; perhaps of our own, whose answer was lost.
            UnknownFieldError: the cluster would drop a field without a word.
        """
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._patiently(lambda: self._call("POST", path, query, manifest))

    def delete(self, path: str) -> None:
        """Delete an object; the cluster takes what belongs to it after it. Raises NotFoundError.

        Not the other way round: Trainer 2.3 makes the pods of a TrainJob anew for as long as that is there, one that is
        being deleted and one that has failed not excepted (pkg/controller/trainjob_controller.go).
        """
        options: Manifest = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._patiently(lambda: self._call("DELETE", path, {}, options))

    def watch(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        """`("LISTED", objects)` first and again after every gap, and `(type, object)` for each change in between.

        Ends only by `close`. A broken watch goes on where it was; when the server has forgotten that place (410), all
        is listed anew.
        """
        version = ""
        pause = 1.0
        while not self.closed.is_set():
            if not version:
                listing = self.read(path, query)
                version = listing["metadata"]["resourceVersion"]
                yield "LISTED", listing["items"]
            asked = {**query, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
            started = time.monotonic()
            try:
                for event in self._events(path, asked | {"timeoutSeconds": str(WATCH_SECONDS)}):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]
            except NotFoundError:
                version = ""
            except _InterruptedError as interrupted:
                pause = max(pause, interrupted.pause_seconds)
            # One that lasted is opened again at once, one that broke at once more and more slowly.
            if time.monotonic() - started >= LONGEST_PAUSE_SECONDS:
                pause = 1.0
            else:
                self.closed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def log(self, pod: str, container: str, since: str = "") -> Iterator[bytes]:
        """What a container writes, as it comes, each line behind its time; from the second of `since` on.

        Ends when the container does, when the server ends it, or when the connection breaks: who wants more asks again.
        Raises NotFoundError when there is no such pod.
        """
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if since:
            query["sinceTime"] = since
        try:
            with self._streaming(f"{self.core('pods')}/{pod}/log", query, QUIET_SECONDS) as response:
                yield from response.stream(1 << 16, decode_content=False)
        except _InterruptedError:
            return

    # ------------------------------------------------------------------------------------------------------------------

    def _patiently(self, call: Callable[[], Manifest]) -> Manifest:
        give_up = time.monotonic() + self.patience_seconds
        pause = 0.5
        while True:
            try:
                return call()
            except _InterruptedError as interrupted:
                pause = max(min(2 * pause, LONGEST_PAUSE_SECONDS), interrupted.pause_seconds)
                if time.monotonic() + pause > give_up:
                    raise ClusterError(
                        f"the API server at {self.host} did not do it in {self.patience_seconds:.0f} s: {interrupted}"
                    ) from None
                if self.closed.wait(pause):
                    raise ClusterError("the launcher ends") from None

    def _events(self, path: str, query: Mapping[str, str]) -> Iterator[Manifest]:
        with self._streaming(path, query, WATCH_SECONDS + 30) as response:
            rest = b""
            for chunk in response.stream(1 << 16, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _explained(event["object"].get("code", 0), event["object"].get("message", ""), self.host)
                    yield event

    @contextmanager
    def _streaming(self, path: str, query: Mapping[str, str], quiet_seconds: int) -> Iterator[BaseHTTPResponse]:
        from urllib3.exceptions import HTTPError

        response = self._call("GET", path, query, quiet_seconds=quiet_seconds)
        self._open.add(response)
        try:
            if self.closed.is_set():
                raise _InterruptedError("closed")
            yield response
        except (HTTPError, OSError) as error:
            raise _InterruptedError(type(error).__name__) from None
        finally:
            self._open.discard(response)
            response.close()

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, quiet_seconds: int | None = None
    ) -> Any:
        """One request; its answer, or with `quiet_seconds` the response, whose body is still to be read."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self.client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=quiet_seconds is None,
                _request_timeout=(CONNECT_SECONDS, quiet_seconds or 30),
            )
        except ApiException as error:
            retry_after = (error.headers or {}).get("Retry-After", "")
            pause = float(retry_after) if retry_after.isdigit() else 0.0
            if method == "GET" and error.status == 400:  # the log of a container that is only about to start
                raise _InterruptedError(_message(error)) from None
            raise _explained(error.status or 0, _message(error), self.host, pause) from None
        except (HTTPError, OSError) as error:
            raise _InterruptedError(f"no answer ({type(error).__name__})") from None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "no reason given")


def _explained(status: int, message: str, host: str, pause_seconds: float = 0.0) -> Exception:
    """What an answer of the API server means here."""
    if status in _TRANSIENT:
        return _InterruptedError(f"{status}: {message}", pause_seconds)
    if status in (404, 410):
        return NotFoundError(message)
    if status == 409:
        return ConflictError(message)
    if status == 401:
        return UserError(f"cluster {host}: does not know us ({message}); renew the token or the kubeconfig file")
    if status == 403 and re.search('User ".*" cannot ', message):  # else what checks objects refuses this one
        return NotPermittedError(host, message)
    if status == 403:
        return UserError(f"cluster {host}: {message}; correct what it names, or have it raised if that is a quota")
    if status == 400 and (unknown := re.findall(r'unknown field "([^"]+)"', message)):
        return UnknownFieldError(", ".join(unknown))
    if status in (400, 422):
        return UserError(f"cluster {host}: refuses the training job: {message}; correct the cluster's configuration")
    return ClusterError(f"the API server at {host} answered {status}: {message}")

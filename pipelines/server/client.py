"""The way to a Kubeflow Pipelines server, and what its refusals mean."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from components.train.cluster import NoClusterError, connect
from drtune.errors import UserError

TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
REQUEST_SECONDS = (10.0, 30.0)
"""How long it may take to connect, and to answer."""
SERVICE_NAMESPACE = "kubeflow"
OLDEST = (2, 16)
"""Kubeflow Pipelines before that refuses every run whose platform spec has a security context."""
_NO_LOG = b'{"error_message":'
_PAGE = 100
_PERMISSION = re.compile(
    r"ResourceAttributes\{Namespace:(?P<namespace>[^,]*),Verb:(?P<verb>[^,]*),Group:(?P<group>[^,]*),"
    r".*?Resource:(?P<resource>[^,]*),"
)
_USER = re.compile(r"User '(?P<user>[^']+)'")

_NOT_THE_API = (
    "it answers with a web page, not as Kubeflow Pipelines does: give the address of its API, such as "
    "http://localhost:8888, and a token if the page is one to log in"
)


class Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
    """kfp's own client, which asks once whether the server is there, waits for no answer without end, and knows the
    addresses of its pages.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        rest = self._run_api.api_client.rest_client
        rest.request = partial(_request_in_time, rest.request)

    def _load_config(
        self,
        host: str | None,
        client_id: str | None,
        namespace: str,  # noqa: ARG002 the signature is kfp's
        *others: Any,
    ) -> kfp_server_api.Configuration:
        """As kfp's own, which without a host looks for the service where the user is: all users' is in `kubeflow`."""
        return super()._load_config(host, client_id, SERVICE_NAMESPACE, *others)

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002 the signature is kfp's
        """Ask once: kfp itself asks five times in twenty seconds and shows a traceback each time."""
        health = self._healthz_api.healthz_service_get_healthz(_request_timeout=REQUEST_SECONDS)
        if health.multi_user is None:  # what is no JSON is read as an answer without content
            raise UserError(f"endpoint {self.endpoint}: {_NOT_THE_API}")
        return health

    @property
    def endpoint(self) -> str:
        """The address that is asked."""
        return str(self._existing_config.host)

    @property
    def namespace(self) -> str | None:
        """The namespace whose experiments and runs are meant; None where a server has only one."""
        return self.get_user_namespace() or None

    def page(self, path: str) -> str:
        """The address of a page of the user interface."""
        return f"{self._get_url_prefix().rstrip('/')}/#/{path}"

    def refuse_an_old_server(self) -> str:
        """The version of the server, which is new enough for these pipelines; one that does not tell it is let pass.

        Raises:
            UserError: it is too old.
        """
        tag = str(_json(self._ask("/apis/v2beta1/healthz")).get("tag_name", ""))
        version = re.match(r"v?(\d+)\.(\d+)", tag)
        if version and (int(version[1]), int(version[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise UserError(
                f"endpoint {self.endpoint}: is Kubeflow Pipelines {tag}, which refuses the steps' security context; "
                f"{oldest} is the oldest that works"
            )
        return tag

    def read_log(self, run_id: str, pod: str) -> str | None:
        """What the pod has written so far; None when it is not there any more.

        The server has said 200 before it looks for the log, and so puts an error into the text. The user interface in
        front of it does not pass this question on, and has one of its own.
        """
        log = self._ask_for_what_may_be_gone(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log")
        if log is None:
            named = {"podname": pod, "runid": run_id, "podnamespace": self.namespace or SERVICE_NAMESPACE}
            log = self._ask_for_what_may_be_gone("/k8s/pod/logs", named)
        if log is None or log.startswith(_NO_LOG):
            return None
        return log.decode("utf-8", errors="replace")

    def read_archived_log(self, run_id: str, node: str) -> str | None:
        """What Argo kept of the node's pod at its end; None when it kept nothing."""
        answer = self._ask_for_what_may_be_gone(f"/apis/v2beta1/runs/{run_id}/nodes/{node}/artifacts/main-logs:read")
        if answer is None:
            return None
        return base64.b64decode(_json(answer).get("data", "")).decode("utf-8", errors="replace")

    def nodes_of_argo(self, run_id: str) -> list[dict[str, Any]]:
        """The nodes of the workflow that Argo made of the run; each pod of a step is one."""
        runtime = _json(self._ask(f"/apis/v1beta1/runs/{run_id}")).get("pipeline_runtime") or {}
        workflow = _json(runtime.get("workflow_manifest") or "")
        return list((workflow.get("status", {}).get("nodes") or {}).values())

    def _ask_for_what_may_be_gone(self, path: str, query: dict[str, str] | None = None) -> bytes | None:
        try:
            return self._ask(path, query)
        except kfp_server_api.ApiException as error:
            if error.status in (404, 500):  # 500 too is said of what is not there
                return None
            raise

    def _ask(self, path: str, query: dict[str, str] | None = None) -> bytes:
        answer = self._run_api.api_client.call_api(
            path,
            "GET",
            query_params=list((query or {}).items()),
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=False,
        )
        return bytes(answer.data)


def _request_in_time(request: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A request of kfp's, all of which go through here, with a limit: by itself it sets none."""
    return request(*args, **named | {"_request_timeout": named.get("_request_timeout") or REQUEST_SECONDS})


@contextmanager
def connected(endpoint: str | None, namespace: str, token: str | None) -> Iterator[Client]:
    """Yield a client of a server that answers; what the server refuses within becomes a line.

    Args:
        endpoint: Address of the API or of the user interface; None takes the one that a kubeconfig or a pod leads to.
        namespace: Namespace of the user on a server for many users; "kubeflow" stands for none, as in kfp.
        token: Sent as bearer token; None takes the file that KF_PIPELINES_SA_TOKEN_PATH names, if any.

    Raises:
        UserError: the server cannot be reached, is none, or refuses something.
    """
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"  # as kfp does
    _check_endpoint(endpoint, token)
    asked = endpoint or "of the cluster at hand"
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each attempt to connect
    try:
        with quietly():
            client = Client(
                host=endpoint,
                namespace=namespace,
                existing_token=token,
                credentials=None if token else _credentials(),
                ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
            )
        asked = client.endpoint
        if client.get_kfp_healthz().multi_user and client.namespace is None:
            raise UserError(f"endpoint {asked}: it has many users: give your namespace with --namespace")
        yield client
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
        raise UserError(f"endpoint {asked}: {explain(error)}") from None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to itself what kfp's client warns of and prints."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def everything(ask: Callable[..., Any], key: str, **arguments: Any) -> list[Any]:
    """All pages of a list: `ask` is a method of the client, `key` the answer's field with the list."""
    found: list[Any] = []
    page_token = ""
    while True:
        answer = ask(page_token=page_token, page_size=_PAGE, **arguments)
        found += getattr(answer, key) or []
        page_token = answer.next_page_token or ""
        if not page_token:
            return found


def named(name: str) -> str:
    """The API's filter for what is shown under that name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def explain(error: kfp_server_api.ApiException | urllib3.exceptions.HTTPError) -> str:
    """What went wrong, in one line, and what can be done."""
    if isinstance(error, urllib3.exceptions.HTTPError):
        reason = getattr(error, "reason", error)
        if isinstance(reason, urllib3.exceptions.SSLError):
            return f"no trusted connection ({reason}); SSL_CERT_FILE names a file with certificates to trust"
        cause = str(reason).split(": ", 1)[-1]
        return f"no answer ({cause}); is the server up, and can it be reached from here?"
    message = _message(error)
    if permission := _PERMISSION.search(message):
        user = found["user"] if (found := _USER.search(message)) else "you"
        what = ".".join(filter(None, [permission["resource"], permission["group"]]))
        where = f" in namespace {permission['namespace']}" if permission["namespace"] else ""
        return f"not permitted: {user} may not {permission['verb']} {what}{where}; ask for a role that allows it"
    match error.status:
        case 401:
            how = "set KFP_EXISTING_TOKEN to a token that is valid now and meant for it (docs/ci.md)"
            return f"it does not know you ({message}); {how}"
        case 403:
            return f"not permitted: {message}"
        case 409:
            return f"the name is taken: {message}; give another one"
        case status if status >= 500:
            return f"the server failed with {status}: {message}; try again later"
        case _ if _is_page(error):
            return _NOT_THE_API
        case status:
            return f"the server refused with {status}: {message}"


def _message(error: kfp_server_api.ApiException) -> str:
    """The words of the server without its markup, in one line."""
    body = "" if _is_page(error) else error.body or ""
    try:
        answer = json.loads(body)
        body = answer.get("message") or answer.get("error_message") or answer.get("error") or body
    except (ValueError, AttributeError):
        pass
    return " ".join((body or error.reason or "without a reason").split())


def _json(answer: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except ValueError:  # a page of something in between
        return {}
    return value if isinstance(value, dict) else {}


def _is_page(error: kfp_server_api.ApiException) -> bool:
    return (error.body or "").lstrip().startswith("<")


def _check_endpoint(endpoint: str | None, token: str | None) -> None:
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"endpoint {endpoint}: starts neither with http:// nor with https://")
    if endpoint:
        return
    if not token:  # with one kfp looks for no cluster
        with suppress(NoClusterError):
            connect()  # kfp keeps to itself why a kubeconfig file cannot be used, and asks this machine
            return
    raise UserError(
        f"endpoint: none is given{', and a token wants one' if token else ''}; set KF_PIPELINES_ENDPOINT or give "
        "--endpoint, such as http://localhost:8888 after `kubectl port-forward -n kubeflow svc/ml-pipeline 8888`"
    )


def _credentials() -> ServiceAccountTokenVolumeCredentials | None:
    """The token of a service account in a file, which is read again for each request and so may be renewed."""
    path = os.environ.get(TOKEN_FILE)
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"{TOKEN_FILE}={path}: no such file; name the file with the service account's token")
    return ServiceAccountTokenVolumeCredentials(path)

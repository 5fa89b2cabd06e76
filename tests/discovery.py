"""What kubectl asks of an API server before it says what it would do: which kinds there are, and what exists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import groupby

from tests.serving import JSON, Handler, Serving

KINDS = [  # group, version, kind, plural, scope
    ("", "v1", "LimitRange", "limitranges", "Namespaced"),
    ("", "v1", "Namespace", "namespaces", "Cluster"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "Namespaced"),
    ("", "v1", "ResourceQuota", "resourcequotas", "Namespaced"),
    ("", "v1", "Secret", "secrets", "Namespaced"),
    ("", "v1", "ServiceAccount", "serviceaccounts", "Namespaced"),
    ("kueue.x-k8s.io", "v1beta2", "LocalQueue", "localqueues", "Namespaced"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "Namespaced"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "Namespaced"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "Namespaced"),
    ("trainer.kubeflow.org", "v1alpha1", "ClusterTrainingRuntime", "clustertrainingruntimes", "Cluster"),
]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@contextmanager
def discovery() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that knows these kinds and holds nothing, and the requests that it got."""
    requests: list[str] = []

    class Answering(Handler):
        def do_GET(self) -> None:
            requests.append(f"GET {self.path}")
            groups = _groups(self.path.partition("?")[0])
            found = groups is not None
            body = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": groups}
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            status, kind, answer = (HTTPStatus.OK, AGGREGATED, body) if found else (HTTPStatus.NOT_FOUND, JSON, missing)
            self.send(status, kind, json.dumps(answer))

        def do_change(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_change

    with Serving(Answering) as server:
        yield server.url, requests


def _groups(path: str) -> list[dict[str, object]] | None:
    """The groups that are served below `path`: the core at /api, the named ones at /apis."""
    if path not in ("/api", "/apis"):
        return None
    served = [kind for kind in KINDS if bool(kind[0]) == (path == "/apis")]
    return [_group(group, list(kinds)) for group, kinds in groupby(served, key=lambda kind: kind[0])]


def _group(group: str, kinds: list[tuple[str, str, str, str, str]]) -> dict[str, object]:
    resources = [
        {
            "resource": plural,
            "responseKind": {"group": group, "version": version, "kind": kind},
            "scope": scope,
            "singularResource": kind.lower(),
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }
        for _, version, kind, plural, scope in kinds
    ]
    return {"metadata": {"name": group}, "versions": [{"version": kinds[0][1], "resources": resources}]}

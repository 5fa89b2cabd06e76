"""The account that runs have may do what docs/cluster.md says, and nothing else."""

from __future__ import annotations

import pytest
from kubernetes import client

from tests.cluster.site import Site, story

pytestmark = story("permissions")
ALLOWED = [
    *(("kubeflow.org", "pytorchjobs", verb) for verb in ("create", "get", "list", "watch", "delete")),
    *(("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "get", "list", "watch", "delete")),
    ("", "pods", "list"),
    ("", "pods", "watch"),
    ("", "pods/log", "get"),
    ("", "events", "list"),
    ("argoproj.io", "workflowtaskresults", "create"),
]
DENIED = [
    ("", "secrets", "list"),
    ("", "secrets", "create"),
    ("", "pods", "create"),
    ("", "pods", "delete"),
    ("", "pods/exec", "create"),
    ("", "configmaps", "list"),
    ("apps", "deployments", "create"),
    ("argoproj.io", "workflows", "create"),
    ("kubeflow.org", "pytorchjobs", "update"),
    ("kubeflow.org", "pytorchjobs", "patch"),
    ("trainer.kubeflow.org", "trainjobs", "patch"),
    ("rbac.authorization.k8s.io", "rolebindings", "create"),
]


def may(site: Site, group: str, resource: str, verb: str, namespace: str) -> bool:
    name, _, part = resource.partition("/")
    about = client.V1ResourceAttributes(
        group=group, resource=name, subresource=part or None, verb=verb, namespace=namespace
    )
    who = f"system:serviceaccount:{site.namespace}:{site.account}"
    review = client.V1SubjectAccessReview(spec=client.V1SubjectAccessReviewSpec(user=who, resource_attributes=about))
    answered = client.AuthorizationV1Api().create_subject_access_review(review)
    return bool(answered.status.allowed)


@pytest.mark.parametrize(("group", "resource", "verb"), ALLOWED)
def test_what_a_run_needs_is_allowed(group: str, resource: str, verb: str, site: Site) -> None:
    assert may(site, group, resource, verb, site.namespace)


@pytest.mark.parametrize(("group", "resource", "verb"), DENIED)
def test_what_it_does_not_need_is_denied(group: str, resource: str, verb: str, site: Site) -> None:
    assert not may(site, group, resource, verb, site.namespace)


def test_nothing_is_allowed_elsewhere(site: Site) -> None:
    assert not may(site, "", "pods", "list", "kube-system")
    assert not may(site, "kubeflow.org", "pytorchjobs", "create", "default")

"""What kubectl makes of manifests/, checked as an API server would, and held together with docs/cluster.md."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from components.images import PLATFORM_IMAGE, TRAINER_IMAGE
from tests.discovery import discovery

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = {"kind": "kubeflow", "production": "drtune"}
"""Each with its namespace."""
SCHEMAS = Path(os.environ.get("DRTUNE_SCHEMAS") or ROOT.parent / "shared" / "schemas")
RUNTIME_SCHEMA = SCHEMAS / "clustertrainingruntime-trainer.kubeflow.org-v1alpha1.json"
Object = dict[str, Any]


@cache
def build(folder: Path) -> list[Object]:
    return list(yaml.safe_load_all(kubectl("kustomize", str(folder))))


def kubectl(*arguments: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(overlay: str, kind: str) -> dict[str, Object]:
    return {made["metadata"]["name"]: made for made in build(MANIFESTS / "overlays" / overlay) if made["kind"] == kind}


def values(key: str, tree: Any) -> Iterator[Any]:
    """All that stands under a key, at any depth."""
    if isinstance(tree, dict):
        yield from (value for name, value in tree.items() if name == key)
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from values(key, child)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_that_kubernetes_knows_with_no_field_it_does_not(overlay: str) -> None:
    for made in build(MANIFESTS / "overlays" / overlay):
        kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)


def test_the_check_of_objects_finds_a_field_that_is_misspelt() -> None:
    wrong = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("overlay", "namespace"), OVERLAYS.items())
def test_every_object_says_whose_it_is_and_where(overlay: str, namespace: str) -> None:
    made = build(MANIFESTS / "overlays" / overlay)
    ours = [namespace] if overlay == "production" else []  # Kubeflow's own is not ours to change, nor to delete
    assert [one["metadata"]["name"] for one in made if one["kind"] == "Namespace"] == ours
    for one in made:
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == namespace, one["metadata"]
            assert one["metadata"]["labels"]["app.kubernetes.io/name"] == "drtune", one["metadata"]
    subjects = [subject for one in made if one["kind"] == "RoleBinding" for subject in one["subjects"]]
    assert {subject["namespace"] for subject in subjects} == {namespace}


def test_the_pod_standard_is_enforced_where_the_namespace_is_ours() -> None:
    labels = objects("production", "Namespace")["drtune"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert "app.kubernetes.io/part-of" not in labels  # it would undo that of Kubeflow's profile
    assert objects("kind", "ResourceQuota") == {}
    assert set(objects("kind", "NetworkPolicy")) == {"drtune-ranks"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_would_apply_it_and_changes_nothing_when_asked_what_it_would_do(overlay: str) -> None:
    folder = MANIFESTS / "overlays" / overlay
    with discovery() as (server, requests):
        said = kubectl("--server", server, "apply", "-k", str(folder), "--dry-run=client", "--validate=false")
    assert len(said.splitlines()) == len(build(folder))
    assert all(line.endswith("created (dry run)") for line in said.splitlines())
    assert {request.split(" ")[0] for request in requests} == {"GET"}


# ----------------------------------------------------------------------------------------------------------------------


def stated_permissions() -> set[tuple[str, str, str]]:
    """Role, resource and verb, by the table in docs/cluster.md; an empty cell repeats the one above it."""
    section = (ROOT / "docs/cluster.md").read_text(encoding="utf-8").split("## Permissions")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    stated, role, resource = set(), "", ""
    for role_cell, resource_cell, verbs, reason in rows[2:]:
        role, resource = role_cell.strip("`") or role, resource_cell.replace("`", "") or resource
        assert reason
        stated |= {(role, resource, verb) for verb in verbs.split(", ")}
    return stated


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_table_of_permissions_is_what_the_roles_grant(overlay: str) -> None:
    granted = set()
    for name, role in objects(overlay, "Role").items():
        for rule in role["rules"]:
            for group, resource, verb in zip(rule["apiGroups"], rule["resources"], [rule["verbs"]], strict=True):
                only = f" ({', '.join(rule['resourceNames'])})" if "resourceNames" in rule else ""
                granted |= {(name, f"{resource}.{group}".strip(".") + only, each) for each in verb}
    assert granted == stated_permissions()
    assert not any("*" in part for grant in granted for part in grant)


def test_the_launcher_s_account_has_both_roles_and_kubeflow_s_own_that_of_training() -> None:
    for overlay, own in {"kind": "pipeline-runner", "production": "default-editor"}.items():
        bindings = objects(overlay, "RoleBinding")
        bound = {name: [subject["name"] for subject in binding["subjects"]] for name, binding in bindings.items()}
        assert bound == {"drtune-launcher": ["drtune-launcher", own], "drtune-step": ["drtune-launcher"]}
        assert all(binding["roleRef"]["name"] == name for name, binding in bindings.items())


# ----------------------------------------------------------------------------------------------------------------------


def reaches(policy: Object, address: str, port: int) -> bool:
    """Whether a policy lets its pods speak to an address, by a block of addresses that it names."""
    for rule in policy["spec"].get("egress", []):
        ports = [entry["port"] for entry in rule.get("ports", [])]
        for block in (peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer):
            inside = ipaddress.ip_address(address) in ipaddress.ip_network(block["cidr"])
            excepted = any(
                ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in block.get("except", [])
            )
            if inside and not excepted and (not ports or port in ports):
                return True
    return False


def test_pods_reach_what_they_need_and_nothing_that_hands_out_credentials() -> None:
    policies = objects("production", "NetworkPolicy")
    reached = {
        (name, address)
        for name, policy in policies.items()
        for address in ("169.254.169.254", "10.96.0.1", "8.8.8.8")  # metadata of clouds, the API server, the public net
        if reaches(policy, address, 443)
    }
    assert reached == {
        ("drtune-steps", "10.96.0.1"),
        ("drtune-public-https-steps", "8.8.8.8"),
        ("drtune-public-https-ranks", "8.8.8.8"),
    }
    for name in ("drtune-steps", "drtune-ranks"):
        assert reaches(policies[name], "169.254.20.10", 53)


def test_every_pod_of_a_namespace_of_ours_is_bounded() -> None:
    deny = objects("production", "NetworkPolicy")["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in objects("production", "NetworkPolicy").values():
        assert all(rule.get("to") for rule in policy["spec"].get("egress", [])), "a rule without `to` allows everything"


def test_ranks_are_reached_by_ranks_alone() -> None:
    spec = objects("kind", "NetworkPolicy")["drtune-ranks"]["spec"]
    assert spec["ingress"] == [{"from": [{"podSelector": spec["podSelector"]}]}]
    assert spec["egress"][0] == {"to": [{"podSelector": spec["podSelector"]}]}


def test_ranks_reach_kubeflow_trainer_where_either_of_its_overlays_puts_it() -> None:
    """Those called manager and kubeflow-platform: manifests/overlays of kubeflow/trainer 2.3.0."""
    rules = objects("kind", "NetworkPolicy")["drtune-ranks"]["spec"]["egress"]
    [[peer]] = [rule["to"] for rule in rules if {"protocol": "TCP", "port": 10443} in rule.get("ports", [])]
    [label] = peer["namespaceSelector"]["matchExpressions"]
    assert label == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["kubeflow-system", "kubeflow"]}


# ----------------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_git() -> None:
    for overlay in OVERLAYS:
        assert objects(overlay, "Secret") == {}
    lines = (MANIFESTS / "secrets/s3.env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert example["AWS_ACCESS_KEY_ID"] == example["AWS_SECRET_ACCESS_KEY"] == ""
    ignored = ["git", "check-ignore", "--quiet", "manifests/secrets/s3.env"]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0
    tracked = subprocess.run(["git", "ls-files", "manifests"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not any(name.endswith(".env") for name in tracked.stdout.splitlines())


def test_the_secret_is_made_from_the_file_that_git_ignores(tmp_path: Path) -> None:
    folder = shutil.copytree(MANIFESTS / "secrets", tmp_path / "secrets")
    text = (folder / "s3.env.example").read_text().replace("KEY_ID=\n", "KEY_ID=reader\n")
    (folder / "s3.env").write_text(text)
    [secret] = build(folder)
    assert secret["metadata"]["name"] == "drtune-s3"
    assert secret["data"]["AWS_ACCESS_KEY_ID"] == "cmVhZGVy"
    assert set(secret["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
    kubernetes_validate.validate(secret, kubernetes_validate.latest_version(), strict=True)
    with discovery() as (server, requests):
        apply = ("apply", "-n", "drtune", "-k", str(folder), "--dry-run=client", "--validate=false")
        assert kubectl("--server", server, *apply) == "secret/drtune-s3 created (dry run)\n"
    assert "GET /api/v1/namespaces/drtune/secrets/drtune-s3" in requests


def test_the_queue_is_there_once_its_line_is_uncommented(tmp_path: Path) -> None:
    copied = shutil.copytree(MANIFESTS, tmp_path / "manifests") / "overlays/production"
    text = (copied / "kustomization.yaml").read_text(encoding="utf-8")
    (copied / "kustomization.yaml").write_text(text.replace("# - ../../components/kueue", "- ../../components/kueue"))
    [queue] = [made for made in build(copied) if made["kind"] == "LocalQueue"]
    assert (queue["metadata"]["name"], queue["metadata"]["namespace"]) == ("drtune", "drtune")
    assert queue["spec"] == {"clusterQueue": "drtune"}  # no schema of Kueue is at hand


def test_the_runtime_of_train_jobs_is_one_that_its_operator_takes() -> None:
    [runtime] = build(MANIFESTS / "trainjob")
    assert "namespace" not in runtime["metadata"]  # it is the whole cluster's
    if not RUNTIME_SCHEMA.exists():
        pytest.skip(f"needs the operator's schema, {RUNTIME_SCHEMA.name}, in a folder that DRTUNE_SCHEMAS names")
    schema = json.loads(RUNTIME_SCHEMA.read_text(encoding="utf-8"))["openAPIV3Schema"]
    jsonschema.validate(runtime, closed(schema))
    runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(runtime, closed(schema))


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which an API server would drop without a word."""
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return made


def test_pods_of_the_runtime_are_those_that_the_policy_bounds() -> None:
    [runtime] = build(MANIFESTS / "trainjob")
    [job] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]
    selected = objects("production", "NetworkPolicy")["drtune-ranks"]["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_images_are_those_of_the_pipeline() -> None:
    built = [
        *build(MANIFESTS / "trainjob"),
        *build(MANIFESTS / "overlays/kind"),
        *build(MANIFESTS / "overlays/production"),
    ]
    assert set(values("image", built)) <= {PLATFORM_IMAGE, TRAINER_IMAGE}
    assert list(values("image", build(MANIFESTS / "trainjob"))) == [TRAINER_IMAGE]


def test_the_document_names_every_object_that_an_overlay_has() -> None:
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    for made in build(MANIFESTS / "overlays/production"):
        name = re.sub(r"^(drtune-public-https-).*", r"\1...", made["metadata"]["name"])
        assert f"`{name}`" in text, made["kind"]

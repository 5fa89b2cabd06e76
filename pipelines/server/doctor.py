"""Whether a cluster is ready for a run: what would stop it there, looked for before it starts.

Each check returns what is well, or raises the UserError that names what is not and its fix; the launcher and the steps
raise the same where they can. Nothing is made in the cluster; on S3 a small file is written and deleted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from kubernetes.utils import parse_quantity

from components.images import TRAINER_IMAGE
from components.pods import S3_KEYS, S3_SECRET
from components.registry import check_registry, place_of
from components.train.cluster import Cluster, ClusterError, NotFoundError, NotPermittedError
from components.train.job import PLACES, TRAINJOB, resources
from components.train.job import place_of as place_of_job
from components.train.launch import create_job, of_a_kind_that_is_there
from components.train.spec import JobSpec
from drtune.errors import UserError
from drtune.files.given import is_on_s3
from drtune.files.patience import Patience
from drtune.files.storage import check_writable, open_storage
from pipelines.server.package import Json, Package

if TYPE_CHECKING:
    from pipelines.server.client import Client

PATIENCE_SECONDS = 10.0
"""Whoever looks is there, and can look again."""
JOB_VERBS = ("create", "get", "list", "watch", "delete")
RIGHTS = (
    ("argoproj.io", "workflowtaskresults", "", ("create", "patch")),
    ("", "configmaps", "kfp-launcher", ("get",)),
    ("", "secrets", "mlpipeline-minio-artifact", ("get",)),
    ("", "pods", "", ("list", "watch")),
    ("", "pods/log", "", ("get",)),
    ("", "events", "", ("list",)),
)
"""What a run needs beside its jobs, as manifests/base/launcher.yaml grants it: group, resource, name, verbs."""
_EXAMPLE = re.compile(r"([^/]+\.)?example\.(com|org|net)/")
_LIBRARY = "docker.io/library/"
"""What a name without a registry means to a node."""
_IMAGES = "push them and compile with DRTUNE_IMAGE_REGISTRY and DRTUNE_IMAGE_TAG"


class Finding(NamedTuple):
    """One line: well, not well, or not looked at."""

    mark: Literal["ok", "!!", "--"]
    text: str

    def __str__(self) -> str:
        return f"{self.mark} {self.text}"


@dataclass(frozen=True)
class Wanted:
    """A run that is to be, and the cluster that it is to be on."""

    cluster: Cluster
    package: Package
    values: Json
    """Of the pipeline's parameters."""
    spec: JobSpec | None
    """The training job; None trains in the step."""
    account: str
    """The service account of the run."""

    @cached_property
    def nodes(self) -> list[Json]:
        """The machines of the cluster."""
        found: list[Json] = self.cluster.read("/api/v1/nodes")["items"]
        return found

    def find(self, plural: str, name: str, fix: str) -> Json:
        """An object of the namespace. Raises UserError when it is not there."""
        where = f"{plural[:-1]} {name}: not in namespace {self.cluster.namespace}; {fix}"
        return _read(self.cluster, f"{self.cluster.core(plural)}/{name}", where)


def examine(
    server: Callable[[], AbstractContextManager[Client]],
    cluster: Cluster | None,
    package: Package,
    values: Json,
    spec: JobSpec | None,
    account: str | None,
    environment: Mapping[str, str],
) -> Iterator[Finding]:
    """Look at the server of Kubeflow Pipelines, at S3 and at the cluster; `account` None is Kubeflow's own."""
    many_users = False
    try:
        with server() as client:
            version, endpoint = client.refuse_an_old_server(), client.endpoint
            many_users = bool(client.get_kfp_healthz().multi_user)
    except UserError as error:
        yield Finding("!!", str(error))
    else:
        yield Finding("ok", f"Kubeflow Pipelines {version} at {endpoint}".replace("  ", " "))
    in_a_folder = values.get("registry") and not is_on_s3(values["registry"])
    if "registry" in values and (environment.get("AWS_ACCESS_KEY_ID") or in_a_folder):
        yield _found(partial(check_s3, values, spec, environment))
    elif "registry" in values:
        yield Finding("--", "not looked at: buckets on S3, since AWS_ACCESS_KEY_ID is not set here")
    if cluster is None:
        yield Finding("!!", "Kubernetes: no kubeconfig file leads to the cluster; set KUBECONFIG")
        return
    reached = _found(partial(check_reachable, cluster))
    yield reached
    if reached.mark == "ok":
        account = account or usual_account(many_users=many_users)
        for check in checks_of(Wanted(cluster, package, values, spec, account)):
            yield _found(check)


def lacking(wanted: Wanted) -> Iterator[Finding]:
    """What would surely stop such a run, in short: what is quickly looked at, and does not pass by itself.

    Raises:
        UserError: the cluster cannot be looked at.
    """
    check_reachable(wanted.cluster)
    found = map(_found, checks_of(wanted, in_short=True))
    return (finding for finding in found if finding.mark == "!!")


def usual_account(*, many_users: bool) -> str:
    """Kubeflow's own, of a run that names none."""
    return "default-editor" if many_users else "pipeline-runner"


def checks_of(wanted: Wanted, *, in_short: bool = False) -> Iterator[Callable[[], str]]:
    """What is looked at in the cluster for such a run; in short without what others may have taken for now."""
    spec = wanted.spec
    secrets = {S3_SECRET: set(S3_KEYS)}
    for name, keys in spec.secrets.items() if spec else ():
        secrets.setdefault(name, set()).update(keys)
    pods = wanted.package.pods.values()
    pulled = [entry["secretName"] for pod in pods for entry in pod.get("imagePullSecret", [])]
    for name in (*pulled, *(spec.image_pull_secrets if spec else ())):
        secrets.setdefault(name, set())
    yield partial(check_rights, wanted)
    yield from (partial(check_secret, wanted, name, keys) for name, keys in secrets.items())
    yield partial(check_images, wanted)
    mounted = [
        entry["pvcNameParameter"]["runtimeValue"]["constant"] for pod in pods for entry in pod.get("pvcMount", [])
    ]
    claims = dict.fromkeys((*mounted, *(spec.volumes if spec else ())))
    yield from (partial(check_claim, wanted, claim) for claim in claims)
    if spec:
        yield partial(check_job, wanted, spec)
    if in_short:
        return
    if spec:
        yield from (partial(check, wanted, spec) for check in (check_quotas, check_room))
    if wanted.values.get("evaluation_gpus") not in (None, "0"):
        yield partial(check_evaluation, wanted)


def _found(check: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", check())
    except NotPermittedError as error:
        return Finding("--", f"not looked at: {error.said}")
    except (UserError, ClusterError, OSError) as error:
        return Finding("!!", str(error))


def check_s3(values: Json, spec: JobSpec | None, environment: Mapping[str, str]) -> str:
    """Write, read and delete where the run will."""
    in_a_pod = {**environment, "KUBERNETES_SERVICE_HOST": "the cluster's"}
    patience, places = Patience(PATIENCE_SECONDS), [place_of(values["registry"], in_a_pod)]
    check_registry(values["registry"], values["name"], in_a_pod, patience=patience)
    if spec:
        places.append(spec.storage)
        check_writable(open_storage(spec.storage, environment, patience=patience))
    return f"S3: {' and '.join(places)} can be written, read and deleted"


def check_reachable(cluster: Cluster) -> str:
    """See that the API server answers."""
    try:
        version = cluster.read("/version")["gitVersion"]
    except ClusterError as error:
        raise UserError(f"{error}; start it, or have KUBECONFIG lead to another") from None
    return f"Kubernetes {version} at {cluster.host}, namespace {cluster.namespace}"


def check_rights(wanted: Wanted) -> str:
    """Ask what the service account of the run may do."""
    there = [place for place in PLACES if wanted.spec and wanted.cluster.has(place)]
    jobs = [(place.group, place.plural, "", JOB_VERBS) for place in there]
    missing = [
        f"{verb} {resource}"
        for group, resource, name, verbs in (*jobs, *RIGHTS)
        for verb in verbs
        if not _may(wanted, verb, group, resource, name)
    ]
    who = f"service account {wanted.account} of namespace {wanted.cluster.namespace}"
    if missing:
        raise UserError(
            f"{who}: may not {', '.join(missing)}; apply an overlay of manifests/ there, or give "
            "--service-account drtune-launcher"
        )
    return f"{who}: may do what a run does"


def _may(wanted: Wanted, verb: str, group: str, resource: str, name: str) -> bool:
    namespace, (plural, _, part) = wanted.cluster.namespace, resource.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": part, "name": name, "verb": verb}
    review: Json = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{wanted.account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "resourceAttributes": {"namespace": namespace, **attributes},
        },
    }
    answer = wanted.cluster.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def check_secret(wanted: Wanted, name: str, keys: set[str]) -> str:
    """See that a secret is there and has its keys, whatever they are."""
    data = wanted.find(
        "secrets", name, "`kubectl apply -k manifests/secrets`" if name == S3_SECRET else "make it there"
    )
    if empty := sorted(key for key in keys if not data.get("data", {}).get(key)):
        raise UserError(f"secret {name} in namespace {wanted.cluster.namespace}: has no {', '.join(empty)}; add it")
    return f"secret {name}"


def check_claim(wanted: Wanted, name: str) -> str:
    """See that a volume of the training job or of a step is there."""
    wanted.find("persistentvolumeclaims", name, "make it, or take it out of `volumes` or `models_claim`")
    return f"persistentvolumeclaim {name}"


def check_images(wanted: Wanted) -> str:
    """See that images have a registry that pods can pull from, or are on a node already, as kind has them."""
    images = set(wanted.package.images)
    if wanted.spec and wanted.spec.image != TRAINER_IMAGE:  # else the train step names it as it was compiled
        images.add(wanted.spec.image)
    if examples := sorted(filter(_EXAMPLE.match, images)):
        raise UserError(f"images {', '.join(examples)}: are those of an example; {_IMAGES}")
    plain = {image.removeprefix(_LIBRARY) for image in images}
    if plain := {image for image in plain if "/" not in image}:
        entries = [entry for node in wanted.nodes for entry in node["status"].get("images", [])]
        there = {name.removeprefix(_LIBRARY) for entry in entries for name in entry.get("names") or []}
        if absent := sorted(plain - there):
            raise UserError(
                f"images {', '.join(absent)}: have no registry, and no node has them; {_IMAGES}, or on kind "
                "`kind load docker-image`"
            )
    return f"images {', '.join(sorted(images))}"


def check_job(wanted: Wanted, spec: JobSpec) -> str:
    """Have the cluster judge the training job without making it: its kind, its fields, its queue."""
    cluster, spec = wanted.cluster, of_a_kind_that_is_there(wanted.cluster, spec)
    place = place_of_job(spec)
    if spec.queue:
        _check_queue(cluster, spec.queue)
    if place is TRAINJOB and cluster.has(place):
        with suppress(NotPermittedError):  # a missing one is told by the cluster too
            _read(
                cluster,
                f"/apis/{place.api}/clustertrainingruntimes/{spec.runtime}",
                f"runtime={spec.runtime}: no such ClusterTrainingRuntime; `kubectl apply -k manifests/trainjob`",
            )
    create_job(cluster, spec, "drtune-doctor", f"{spec.storage}/doctor/train", dry_run=True)
    return f"{place.kind}: the cluster takes the training job{f' into queue {spec.queue}' if spec.queue else ''}"


def _check_queue(cluster: Cluster, queue: str) -> None:
    kueue = _read(
        cluster, "/apis/kueue.x-k8s.io", f"queue={queue}: the cluster has no Kueue; install it, or leave `queue` out"
    )
    found = _read(
        cluster,
        f"/apis/{kueue['preferredVersion']['groupVersion']}/namespaces/{cluster.namespace}/localqueues/{queue}",
        f"queue={queue}: no such LocalQueue in namespace {cluster.namespace}; make it, or name another",
    )
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active" and condition["status"] != "True":
            raise UserError(f"queue={queue}: takes no jobs ({condition['message']}); have its ClusterQueue mended")


def check_quotas(wanted: Wanted, spec: JobSpec) -> str:
    """See that the training job fits into what is left of the namespace's quotas."""
    asked = {"pods": Decimal(spec.least_nodes)}
    for kind, amounts in resources(spec).items():
        total = {name: spec.least_nodes * parse_quantity(amount) for name, amount in amounts.items()}
        asked |= {f"{kind}.{name}": amount for name, amount in total.items()}
        asked |= total if kind == "requests" else {}  # `cpu` means `requests.cpu`
    for quota in wanted.cluster.read(wanted.cluster.core("resourcequotas"))["items"]:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):  # for some pods alone
            continue
        status = quota.get("status", {})
        for name, hard in status.get("hard", {}).items():
            left = parse_quantity(hard) - parse_quantity(status.get("used", {}).get(name, "0"))
            if asked.get(name, 0) > left:
                raise UserError(
                    f"quota {quota['metadata']['name']}: the training job asks for {name}={_plain(asked[name])}, and "
                    f"{_plain(left)} of {hard} is left; raise it, ask for less, or wait until others have ended"
                )
    return f"quotas of namespace {wanted.cluster.namespace}: room for the training job"


def check_room(wanted: Wanted, spec: JobSpec) -> str:
    """See that the cluster has nodes for the training job, however busy they are now."""
    asked, tolerations = resources(spec)["requests"], [one.model_dump() for one in spec.tolerations]

    def places(amounts: Mapping[str, str]) -> int:
        return _places(wanted.nodes, amounts, spec.node_selector, tolerations)

    if (found := places(asked)) < spec.least_nodes:
        short = {name: amount for name, amount in asked.items() if places({name: amount}) < spec.least_nodes} or asked
        raise UserError(
            f"nodes: {spec.least_nodes} pods want {_spoken(short)} each, and {found} find a place on the nodes that "
            "`node_selector` and `tolerations` allow; add nodes, or change what the cluster file asks for"
        )
    return f"nodes: a place for each of {spec.least_nodes} pods with {_spoken(asked)}"


def check_evaluation(wanted: Wanted) -> str:
    """See that some node has the GPUs of the evaluation."""
    asked = {wanted.values["evaluation_gpu_resource"]: wanted.values["evaluation_gpus"]}
    pod = wanted.package.pods.get("exec-evaluate", {})
    if not _places(wanted.nodes, asked, pod.get("nodeSelector", {}).get("labels", {}), pod.get("tolerations", [])):
        raise UserError(
            f"evaluation_gpus: no node that the step may run on has {_spoken(asked)}; add one, name another "
            "evaluation_gpu_resource, or give evaluation_gpus=0 for the miniature"
        )
    return f"evaluation: a node with {_spoken(asked)}"


def _places(
    nodes: Sequence[Json], asked: Mapping[str, str], labels: Mapping[str, str], tolerations: Sequence[Json]
) -> int:
    """How many pods that ask for so much fit on such nodes while they are empty."""
    fitting = [
        node["status"]["allocatable"]
        for node in nodes
        if labels.items() <= node["metadata"].get("labels", {}).items()
        and all(_is_tolerated(taint, tolerations) for taint in node["spec"].get("taints", []))
    ]
    needs = {name: need for name, amount in asked.items() if (need := parse_quantity(amount))}
    rooms = [[int(parse_quantity(has.get(name, "0")) // need) for name, need in needs.items()] for has in fitting]
    return sum(min(room, default=sys.maxsize) for room in rooms)


def _is_tolerated(taint: Json, tolerations: Sequence[Json]) -> bool:
    """As the scheduler sees it."""
    return taint["effect"] == "PreferNoSchedule" or any(
        toleration.get("key") in (None, "", taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("operator") == "Exists" or (toleration.get("value") or "") == taint.get("value", ""))
        for toleration in tolerations
    )


def _read(cluster: Cluster, path: str, absent: str) -> Json:
    try:
        return cluster.read(path)
    except NotFoundError:
        raise UserError(absent) from None


def _spoken(amounts: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={amount}" for name, amount in amounts.items())


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"

"""`drtune-pipeline doctor`: a cluster that lacks one thing is told of that thing and its fix, and of nothing else."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pipelines.cli.main import main
from pipelines.server.doctor import JOB_VERBS, RIGHTS
from tests.cluster_ready import CORE, NODES, QUEUES, REVIEWS, RUNTIMES, ReadyCluster, a_node, a_queue, a_quota
from tests.kfp_api import KfpServer
from tests.s3 import BUCKET, S3Server

ROOT = Path(__file__).parents[2]
WHOLE = ("queue=nightly", 'image_pull_secrets=["ghcr"]')
"""What the cluster file asks for beside what stands in it."""


class Visit:
    """A cluster and its servers, and what is given to the command."""

    def __init__(self, api: ReadyCluster, kfp: KfpServer, s3: S3Server, folder: Path) -> None:
        self.api, self.kfp, self.folder = api, kfp, folder
        self.place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        self.overrides = [f"storage={self.place}/runs", *WHOLE]
        self.given = {"registry": f"{self.place}/registry", "evaluation_gpus": "1", "overrides": '["batch_size=16"]'}
        self.command, self.options = ["doctor"], list[str]()
        self.environment = kfp.environment | s3.environment | {"KUBECONFIG": api.kubeconfig(folder)}

    def call(self) -> Result:
        parameters = {"cluster": str(ROOT / "configs" / "cluster.yaml"), **self.given}
        if not parameters["cluster"]:
            del parameters["cluster"]
        else:
            parameters["cluster_overrides"] = json.dumps(self.overrides)
        arguments = [f"{name}={value}" for name, value in parameters.items()]
        return CliRunner().invoke(main, [*self.command, *self.options, *arguments], env=self.environment)

    def change_package(self, change: Callable[[str], str]) -> None:
        path = self.folder / "package.yaml"
        path.write_text(change((ROOT / "pipelines" / "tune.yaml").read_text()))
        self.options += ["-f", str(path)]


@pytest.fixture
def visit(s3_server: S3Server, tmp_path: Path) -> Iterator[Visit]:
    with ReadyCluster() as api, KfpServer() as kfp:
        yield Visit(api, kfp, s3_server, tmp_path)


def test_a_cluster_that_lacks_nothing_is_well_and_nothing_is_left_in_it(visit: Visit) -> None:
    visit.overrides.append("extra_resources={rdma/ib: 0}")
    result = visit.call()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line[:3] for line in lines} == {"ok "}
    for what in (
        "Kubeflow Pipelines 2.17.0",
        "Kubernetes v1.34.4",
        "S3",
        "service account pipeline-runner",
        "images",
        "secret drtune-s3",
        "secret ghcr",
        "persistentvolumeclaim drtune-models",
        "PyTorchJob",
        "quotas",
        "nodes",
        "evaluation",
    ):
        assert sum(line.startswith(f"ok {what}") for line in lines) == 1, what
    assert visit.api.of("pytorchjobs") == []
    assert visit.api.asked_for == {"system:serviceaccount:kubeflow:pipeline-runner"}


def lacks_a_registry_bucket(visit: Visit) -> None:
    visit.given["registry"] = "s3://absent/registry"


def lacks_a_registry_that_stays(visit: Visit) -> None:
    visit.given["registry"] = "runs/registry"


def lacks_a_runs_bucket(visit: Visit) -> None:
    visit.overrides[0] = "storage=s3://absent/runs"


def lacks_the_secret(visit: Visit) -> None:
    visit.api.remove(f"{CORE}/secrets", "drtune-s3")


def lacks_a_key(visit: Visit) -> None:
    visit.api.objects[f"{CORE}/secrets", "drtune-s3"]["data"]["AWS_ENDPOINT_URL"] = ""


def lacks_the_pull_secret(visit: Visit) -> None:
    visit.api.remove(f"{CORE}/secrets", "ghcr")


def lacks_the_claim(visit: Visit) -> None:
    visit.api.remove(f"{CORE}/persistentvolumeclaims", "drtune-models")


def lacks_rights(visit: Visit) -> None:
    visit.api.denied = {("create", "pytorchjobs"), ("get", "pods/log")}


def lacks_an_account_with_rights(visit: Visit) -> None:
    visit.api.denied = {("list", "events")}
    visit.options += ["--service-account", "mine"]


def lacks_both_kinds(visit: Visit) -> None:
    visit.api.kinds = set()


def lacks_the_kind(visit: Visit) -> None:
    visit.api.kinds = {"pytorchjobs"}
    visit.overrides += ["backend=trainjob"]


def lacks_a_field(visit: Visit) -> None:
    visit.api.lacking = {"runtimePatches"}
    visit.overrides += ["backend=trainjob"]


def lacks_the_runtime(visit: Visit) -> None:
    visit.api.remove(RUNTIMES, "drtune")
    visit.overrides += ["backend=trainjob"]


def lacks_kueue(visit: Visit) -> None:
    visit.api.has_kueue = False


def lacks_the_queue(visit: Visit) -> None:
    visit.api.remove(QUEUES, "nightly")


def lacks_a_cluster_queue(visit: Visit) -> None:
    visit.api.put(QUEUES, a_queue("False", "Can't submit new workloads to clusterQueue"))


def lacks_kueues_integration(visit: Visit) -> None:
    visit.api.queued = {"trainjobs"}


def lacks_quota(visit: Visit) -> None:
    hard = {"requests.nvidia.com/gpu": "18", "cpu": "192"}
    visit.api.put(f"{CORE}/resourcequotas", a_quota(hard, {"requests.nvidia.com/gpu": "2500m"}))


def lacks_gpus(visit: Visit) -> None:
    visit.api.put(NODES, a_node("node-1", gpus="7"))


def lacks_untainted_nodes(visit: Visit) -> None:
    visit.api.put(NODES, a_node("node-1", taint="reserved"))


def lacks_gpus_of_that_name(visit: Visit) -> None:
    visit.given["evaluation_gpu_resource"] = "amd.com/gpu"


def lacks_images(visit: Visit) -> None:
    for number in range(2):
        visit.api.objects[NODES, f"node-{number}"]["status"]["images"].pop()


def lacks_names_of_images(visit: Visit) -> None:
    visit.change_package(lambda text: text.replace("image: drtune-", "image: registry.example.com/team/drtune-"))


def lacks_a_new_server(visit: Visit) -> None:
    visit.kfp.tag_name = "2.15.0"


def lacks_a_server(visit: Visit) -> None:
    visit.environment["KF_PIPELINES_ENDPOINT"] = "http://127.0.0.1:9"


def lacks_s3(visit: Visit) -> None:
    visit.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"


LACKING = {
    lacks_a_registry_bucket: "storage s3://absent/registry: no bucket absent .*; create it",
    lacks_a_registry_that_stays: "registry runs/registry: would be gone with this pod; give s3://",
    lacks_a_runs_bucket: "storage s3://absent/runs: no bucket absent .*; create it",
    lacks_s3: "storage s3://.*: .* refuses the credentials .*; correct AWS_ACCESS_KEY_ID",
    lacks_the_secret: "secret drtune-s3: not in namespace kubeflow; `kubectl apply -k manifests/secrets`",
    lacks_a_key: "secret drtune-s3 in namespace kubeflow: has no AWS_ENDPOINT_URL; add it",
    lacks_the_pull_secret: "secret ghcr: not in namespace kubeflow; make it there",
    lacks_the_claim: "persistentvolumeclaim drtune-models: not in namespace kubeflow; make it",
    lacks_rights: "service account pipeline-runner .*: may not create pytorchjobs, get pods/log; apply an overlay",
    lacks_an_account_with_rights: "service account mine .*: may not list events; .*--service-account drtune-launcher",
    lacks_both_kinds: "cluster http.*: has neither PyTorchJob .* nor TrainJob .*; install",
    lacks_the_kind: "cluster http.*: has no TrainJob .*; install its operator",
    lacks_a_field: r"cluster http.*: its TrainJob has no field spec.runtimePatches; it needs Kubeflow Trainer 2\.2",
    lacks_the_runtime: "runtime=drtune: no such ClusterTrainingRuntime; `kubectl apply -k manifests/trainjob`",
    lacks_kueue: "queue=nightly: the cluster has no Kueue; install it, or leave `queue` out",
    lacks_the_queue: "queue=nightly: no such LocalQueue in namespace kubeflow; make it",
    lacks_a_cluster_queue: r"queue=nightly: takes no jobs \(Can't submit new workloads to clusterQueue\); have its",
    lacks_kueues_integration: "queue=nightly: Kueue ignores the PyTorchJob .*integrations.frameworks",
    lacks_quota: r"quota drtune: .* asks for requests.nvidia.com/gpu=16, and 15\.5 of 18 is left; raise it",
    lacks_gpus: "nodes: 2 pods want nvidia.com/gpu=8 each, and 1 find a place .*; add nodes",
    lacks_untainted_nodes: "nodes: 2 pods want cpu=64, memory=512Gi, .* each, and 1 find a place .* `tolerations`",
    lacks_gpus_of_that_name: "evaluation_gpus: no node .* has amd.com/gpu=1; add one",
    lacks_images: "images drtune-trainer:0.1.0: have no registry, and no node has them; .*kind load",
    lacks_names_of_images: r"images registry.example.com/.*: are those of an example; push them and compile",
    lacks_a_new_server: "endpoint .*: is Kubeflow Pipelines 2.15.0, .* 2.16 is the oldest",
    lacks_a_server: "endpoint http://127.0.0.1:9: no answer .*is the server up",
}


@pytest.mark.parametrize("lacks", LACKING, ids=lambda lacks: lacks.__name__)
def test_it_names_what_is_lacking_and_its_fix_and_nothing_else(visit: Visit, lacks: Callable[[Visit], None]) -> None:
    lacks(visit)
    result = visit.call()
    assert result.exit_code == 1, result.output
    wrong = [line for line in result.stdout.splitlines() if not line.startswith("ok ")]
    assert len(wrong) == 1, result.output
    assert re.match(f"!! {LACKING[lacks]}", wrong[0]), wrong[0]
    assert visit.api.of("jobs") == []


@pytest.fixture
def submitted(visit: Visit) -> Visit:
    visit.command = ["submit", "--wait", "--inline"]
    return visit


@pytest.mark.parametrize("lacks", [lacks_the_secret, lacks_rights, lacks_the_claim, lacks_the_queue, lacks_images])
def test_a_run_that_is_waited_for_is_not_started_where_something_is_lacking(
    submitted: Visit, lacks: Callable[[Visit], None]
) -> None:
    lacks(submitted)
    result = submitted.call()
    assert (result.exit_code, submitted.kfp.runs) == (2, {})
    [line] = [line for line in result.stdout.splitlines() if line[:2] in ("ok", "!!", "--")]
    assert re.match(f"!! {LACKING[lacks]}", line), line
    assert re.fullmatch("error: http.*: lacks what is marked .*; mend it, .* leave out --wait.*\n", result.stderr)
    submitted.command = ["submit", "--inline"]
    assert submitted.call().exit_code == 0
    assert len(submitted.kfp.runs) == 1


@pytest.mark.parametrize("lacks", [lacks_quota, lacks_gpus, lacks_a_registry_bucket])
def test_it_is_started_where_what_is_lacking_may_come_or_is_seen_by_the_run_itself(
    submitted: Visit, lacks: Callable[[Visit], None]
) -> None:
    lacks(submitted)
    assert submitted.call().exit_code == 0
    assert len(submitted.kfp.runs) == 1


def test_a_kubeconfig_that_cannot_be_used_stops_no_run(submitted: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("a: [b", encoding="utf-8")
    submitted.environment["KUBECONFIG"] = str(broken)
    result = submitted.call()
    assert f"(not looked at: kubeconfig {broken}: cannot be used (" in result.stdout
    assert len(submitted.kfp.runs) == 1


def test_a_cluster_that_cannot_be_looked_at_stops_no_run(submitted: Visit) -> None:
    submitted.api.fault("GET", "/version", 401)
    result = submitted.call()
    assert result.exit_code == 0, result.output
    assert "(not looked at: cluster http" in result.stdout


def test_a_run_without_a_cluster_file_is_looked_at_without_a_job(visit: Visit) -> None:
    visit.given |= {"cluster": "", "evaluation_gpus": "0"}
    visit.api.kinds = set()
    visit.api.denied = {(verb, "pytorchjobs") for verb in JOB_VERBS}
    result = visit.call()
    assert result.exit_code == 0, result.output
    assert "PyTorchJob" not in result.output


def test_what_one_may_not_look_at_is_told_and_is_no_fault(visit: Visit) -> None:
    visit.api.forbid("GET", NODES, "nodes")
    visit.api.forbid("POST", REVIEWS, "subjectaccessreviews.authorization.k8s.io")
    visit.environment["AWS_ACCESS_KEY_ID"] = ""
    result = visit.call()
    assert result.exit_code == 0, result.output
    told = [line for line in result.stdout.splitlines() if not line.startswith("ok ")]
    assert [line[:3] for line in told] == ["-- "] * 5  # S3, rights, images, room, evaluation
    assert '-- not looked at: nodes is forbidden: User "someone" cannot list resource "nodes"' in result.stdout


def test_on_a_server_for_many_users_a_run_has_the_account_of_its_namespace(visit: Visit) -> None:
    visit.kfp.multi_user = True
    visit.options += ["-n", "team"]
    visit.call()
    assert visit.api.asked_for == {"system:serviceaccount:team:default-editor"}


def test_a_pipeline_that_publishes_nothing_is_looked_at_without_its_buckets(visit: Visit) -> None:
    visit.options += ["-f", str(ROOT / "pipelines" / "monitor.yaml")]
    visit.given = {"cluster": "", "reference": "s3://traffic/a.jsonl", "incoming": "s3://traffic/b.jsonl"}
    result = visit.call()
    assert result.exit_code == 0, result.output
    assert "S3" not in result.output


def test_a_quota_for_some_pods_alone_counts_for_nothing(visit: Visit) -> None:
    visit.api.put(f"{CORE}/resourcequotas", a_quota({"pods": "1"}, {}, scopes=["BestEffort"]))
    assert visit.call().exit_code == 0


def test_a_cluster_that_does_not_answer_is_one_line(visit: Visit) -> None:
    visit.api.fault("GET", "/version", 401)
    result = visit.call()
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if not line.startswith("ok ")]
    assert re.match("!! cluster http.*: does not know us .*; renew the token", line)


def test_without_a_kubeconfig_the_servers_are_looked_at_all_the_same(visit: Visit, tmp_path: Path) -> None:
    visit.environment["KUBECONFIG"] = str(tmp_path / "absent")
    result = visit.call()
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if not line.startswith("ok ")]
    assert line == "!! Kubernetes: no kubeconfig file leads to the cluster; set KUBECONFIG"


def test_a_laptop_without_a_cluster_gets_one_line(visit: Visit, tmp_path: Path) -> None:
    visit.environment = {"KUBECONFIG": str(tmp_path / "absent"), "KF_PIPELINES_ENDPOINT": ""}
    result = visit.call()
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch("error: cluster: there is none to look at; set KUBECONFIG.*\n", result.stderr)


def test_a_kubeconfig_that_cannot_be_used_is_no_kubeconfig_that_is_not_there(visit: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("a: [b", encoding="utf-8")
    visit.environment["KUBECONFIG"] = str(broken)
    result = visit.call()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: kubeconfig {broken}: cannot be used (ParserError: while parsing a flow")


def test_a_cluster_file_that_only_the_run_can_read_is_told_and_the_rest_looked_at(visit: Visit) -> None:
    visit.given["cluster"] = "s3://settings/cluster.yaml"
    result = visit.call()
    assert result.exit_code == 0, result.output
    told = [line for line in result.stdout.splitlines() if not line.startswith(("ok ", "("))]
    assert told == ["-- not looked at: the training job, since s3://settings/cluster.yaml is not here"]


def test_the_claim_of_the_evaluation_is_looked_for(visit: Visit) -> None:
    mount = "        exec-evaluate:\n          pvcMount:\n          - mountPath: /models\n            pvcNameParameter:"
    mount += "\n              runtimeValue:\n                constant: of-the-site\n          activeDeadlineSeconds"
    visit.change_package(lambda text: text.replace("        exec-evaluate:\n          activeDeadlineSeconds", mount))
    result = visit.call()
    [line] = [line for line in result.stdout.splitlines() if not line.startswith("ok ")]
    assert line.startswith("!! persistentvolumeclaim of-the-site: not in namespace kubeflow; make it")


def test_a_mistake_in_what_is_given_is_one_line(visit: Visit) -> None:
    visit.overrides += ["nodes=0"]
    result = visit.call()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nodes" in result.stderr


def test_what_it_asks_about_is_what_the_manifests_grant() -> None:
    granted = set()
    for document in yaml.safe_load_all((ROOT / "manifests" / "base" / "launcher.yaml").read_text()):
        for rule in document.get("rules", []):
            for resource in rule["resources"]:
                names = rule.get("resourceNames", [""])
                granted |= {(rule["apiGroups"][0], resource, name, tuple(rule["verbs"])) for name in names}
    jobs = {("kubeflow.org", "pytorchjobs", "", JOB_VERBS), ("trainer.kubeflow.org", "trainjobs", "", JOB_VERBS)}
    assert granted == set(RIGHTS) | jobs

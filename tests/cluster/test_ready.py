"""What `drtune-pipeline doctor` says of the cluster: well for the runs of these stories, and else what is lacking."""

from __future__ import annotations

import pytest

from tests.cluster.site import CLUSTER, Site, parameters, story

pytestmark = story("ready")
HUGE = "cpu=4096"
"""More than any machine has."""


def lines(site: Site, *given: str, account: str = "", code: int = 0) -> list[str]:
    options = [
        "-n",
        site.namespace,
        "-f",
        str(site.packages / "tune.yaml"),
        "--service-account",
        account or site.account,
    ]
    return site.call("doctor", *options, *given, code=code).splitlines()


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_a_cluster_on_which_the_stories_run_is_ready_for_them(site: Site, kind: str) -> None:
    overrides = [f"backend={kind}", *(["elastic=null"] if kind == "trainjob" else [])]
    said = lines(site, *parameters(cluster=CLUSTER, cluster_overrides=overrides))
    assert [line for line in said if not line.startswith("ok ")] == []


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        ([HUGE], "!! nodes: 2 pods want cpu=4096 each, and 0 find a place"),
        (["image_pull_secrets=[nowhere]"], "!! secret nowhere: not in namespace"),
        (["storage=s3://drtune-absent/runs"], "!! storage s3://drtune-absent/runs: no bucket drtune-absent"),
        (["backend=trainjob", "elastic=null", "runtime=nowhere"], "!! runtime=nowhere: no such ClusterTrainingRuntime"),
    ],
)
def test_one_thing_that_is_lacking_is_one_line(site: Site, overrides: list[str], wrong: str) -> None:
    said = lines(site, *parameters(cluster=CLUSTER, cluster_overrides=overrides), code=1)
    [line] = [line for line in said if not line.startswith("ok ")]
    assert line.startswith(wrong)


def test_an_account_without_rights_is_told_which(site: Site) -> None:
    said = lines(site, *parameters(cluster=CLUSTER), account="drtune-nobody", code=1)
    [line] = [line for line in said if not line.startswith("ok ")]
    assert "drtune-nobody" in line
    assert "create pytorchjobs" in line


def test_a_run_that_is_waited_for_is_not_started_where_something_is_lacking(site: Site) -> None:
    options = ["-n", site.namespace, "-f", str(site.packages / "tune.yaml"), "--inline", "-e", "drtune-e2e-unready"]
    more = parameters(cluster=CLUSTER, cluster_overrides=["image_pull_secrets=[nowhere]"])
    said = site.call("submit", "--wait", *options, "--service-account", site.account, *more, code=2)
    assert "!! secret nowhere: not in namespace" in said
    assert "experiment drtune-e2e-unready: not there" in site.call("status", "-e", "drtune-e2e-unready", code=2)

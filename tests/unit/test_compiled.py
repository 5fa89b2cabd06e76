import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Option
from kfp.dsl.graph_component import GraphComponent

from components.images import USER_ID
from components.platform import Platform
from components.pods import HUB_SECRET, NEWS_SECRET, RETRY_AFTER_SECONDS, S3_SECRET
from components.registry import place_of
from components.train.environment import CERTIFICATES
from drtune.config import load_section
from pipelines.cli.main import main
from pipelines.cli.options import TUNE
from pipelines.local.run import compile_pipeline
from pipelines.monitor import monitor
from pipelines.retrain import retrain
from pipelines.server.package import Package
from pipelines.tune import tune

PIPELINES = {pipeline.name: pipeline for pipeline in (tune, monitor, retrain)}
PACKAGES = [TUNE.with_name(f"{name}.yaml") for name in PIPELINES]
SITES = TUNE.parents[1] / "manifests" / "platform"
ALL = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)


def compiled(package: Path) -> dict[str, Any]:
    """The pipeline itself; what only Kubernetes is told is a second document."""
    pipeline: dict[str, Any] = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    return pipeline


def test_the_compiled_pipelines_are_up_to_date() -> None:
    for package, pipeline in zip(PACKAGES, PIPELINES.values(), strict=True):
        assert package.read_text(encoding="utf-8") == compile_pipeline(pipeline), "run `drtune-pipeline compile`"


def test_compiling_elsewhere_gives_the_same_text(tmp_path: Path) -> None:
    code = (
        "import pathlib; from pipelines.local.run import compile_pipeline; from pipelines.tune import tune\n"
        "pathlib.Path('compiled.yaml').write_text(compile_pipeline(tune), encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "compiled.yaml").read_text(encoding="utf-8") == TUNE.read_text(encoding="utf-8")


@ALL
def test_the_compiled_pipeline_holds_nothing_of_the_machine_and_installs_nothing(package: Path) -> None:
    text = package.read_text(encoding="utf-8")
    for place in (str(Path.home()), str(TUNE.parents[1]), sys.prefix):
        assert place not in text
    assert "pip install" not in text


@pytest.mark.parametrize(("package", "steps"), list(zip(PACKAGES, (6, 1, 7), strict=True)), ids=list(PIPELINES))
def test_every_step_runs_in_an_image_of_ours(package: Path, steps: int) -> None:
    executors = compiled(package)["deploymentSpec"]["executors"]
    assert len(executors) == steps
    assert all(executor["container"]["image"].startswith("drtune-") for executor in executors.values())


@ALL
def test_every_parameter_is_described(package: Path) -> None:
    parameters = compiled(package)["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values())


@pytest.mark.parametrize(("command", "pipeline"), [("run", tune), ("monitor", monitor)], ids=["tune", "monitor"])
def test_the_defaults_of_the_command_are_those_of_the_pipeline(command: str, pipeline: GraphComponent) -> None:
    helps = {option.name: str(option.help) for option in main.commands[command].params if isinstance(option, Option)}
    shown = {name: found[1] for name, text in helps.items() if (found := re.search(r"\[default: (\S+)\]", text))}
    only_on_a_cluster = {"evaluation_gpus", "evaluation_gpu_resource"}
    defaults = Package.read(TUNE.with_name(f"{pipeline.name}.yaml")).defaults
    given = {name: value for name, value in defaults.items() if value and name not in only_on_a_cluster}
    if "registry" in shown:
        given["registry"] = place_of("", {})
    assert shown == given


@ALL
def test_every_pod_is_without_root_in_time_and_with_its_keys_by_the_name_of_their_secret(package: Path) -> None:
    pipeline, platform = yaml.safe_load_all(package.read_text(encoding="utf-8"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = pipeline["deploymentSpec"]["executors"]
    assert set(pods) == set(executors)
    for name, pod in pods.items():
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": str(USER_ID)}
        assert int(pod["activeDeadlineSeconds"]) >= 1800
        secrets = {secret["secretName"]: secret["optional"] for secret in pod["secretAsEnv"]}
        more = {"exec-evaluate": {HUB_SECRET: True}, "exec-finish": {NEWS_SECRET: True}}
        assert secrets == {S3_SECRET: True} | more.get(name, {})
        resources = executors[name]["container"]["resources"]
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(resources)


@ALL
def test_no_parameter_is_a_secret(package: Path) -> None:
    parameters = compiled(package)["root"]["inputDefinitions"]["parameters"]
    assert not [name for name in parameters if re.search("secret|key|token|password", name)]


def tasks_of(package: Path) -> dict[str, dict[str, Any]]:
    """The steps, without what only holds them together."""
    whole = compiled(package)
    return {
        name: task
        for component in [whole["root"], *whole["components"].values()]
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if not name.startswith(("condition", "exit-handler")) and "taskInfo" in task and name != "tune"
    }


def pods_of(package: Path) -> dict[str, dict[str, Any]]:
    """What Kubernetes is told of each step's pod."""
    *_, platform = yaml.safe_load_all(package.read_text(encoding="utf-8"))
    pods: dict[str, dict[str, Any]] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): pod for name, pod in pods.items()}


@ALL
def test_nothing_is_cached_since_a_path_says_nothing_of_what_is_there(package: Path) -> None:
    assert not [name for name, task in tasks_of(package).items() if task["cachingOptions"].get("enableCache")]


def test_retries_are_bounded_and_last_for_all_tries() -> None:
    tasks, pods = tasks_of(TUNE), pods_of(TUNE)
    retries = {name: task["retryPolicy"]["maxRetryCount"] for name, task in tasks.items()}
    assert retries == {"prepare-prompts": 2, "train": 1, "evaluate": 1, "decide": 2, "publish": 2, "finish": 2}
    for name, task in tasks.items():
        # Argo takes it from the start of the first try, and ends by it whichever try runs then.
        longest = int(task["retryPolicy"]["backoffMaxDuration"].removesuffix("s"))
        each, pause = int(pods[name]["activeDeadlineSeconds"]), RETRY_AFTER_SECONDS
        assert longest >= (retries[name] + 1) * each + retries[name] * pause


def test_an_evaluation_gets_gpus_by_parameters_and_onto_nodes_that_are_kept_for_them() -> None:
    accelerator = compiled(TUNE)["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["resources"][
        "accelerator"
    ]
    names = [re.findall("pipelinechannel--([a-z_]+)", accelerator[key]) for key in ("resourceType", "resourceCount")]
    assert names == [["evaluation_gpu_resource"], ["evaluation_gpus"]]
    assert pods_of(TUNE)["evaluate"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def test_the_long_steps_keep_their_nodes_and_one_that_waits_for_its_job_holds_little() -> None:
    kept = {
        name
        for name, pod in pods_of(TUNE).items()
        if pod.get("podMetadata", {}).get("annotations") == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    }
    assert kept == {"train", "evaluate"}
    resources = compiled(TUNE)["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert (resources["resourceCpuRequest"], resources["resourceMemoryRequest"]) == ("100m", "512Mi")


def compile_for(site: Path) -> list[dict[str, Any]]:
    """tune, as it is compiled with the settings of a site."""
    code = (
        "from pipelines.local.run import compile_pipeline as made; from pipelines.tune import tune; print(made(tune))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=os.environ | {"DRTUNE_PLATFORM": str(site)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_a_site_gives_its_steps_secrets_nodes_requests_a_user_and_a_cache(tmp_path: Path) -> None:
    site = {
        "user": None,
        "image_pull_secrets": ["ours"],
        "node_selector": {"pool": "steps"},
        "tolerations": [{"key": "pool", "value": "steps", "effect": "NoSchedule"}],
        "requests": {"evaluate": {"cpu": "500m", "memory": "2Gi"}},
        "environment": {"HTTPS_PROXY": "http://proxy:3128"},
        "ca_bundle": "company",
        "models_claim": "drtune-models",
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
    pipeline, platform = compile_for(tmp_path / "site.yaml")
    for name, pod in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        assert pod["securityContext"] == {"runAsNonRoot": True}
        assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["ours"]
        assert pod["nodeSelector"]["labels"] == {"pool": "steps"}
        assert {"key": "pool", "operator": "Equal", "value": "steps", "effect": "NoSchedule"} in pod["tolerations"]
        assert [mount["mountPath"] for mount in pod.get("pvcMount", [])] == ["/models"] * (name == "exec-evaluate")
        assert [(one["configMapName"], one["mountPath"]) for one in pod["configMapAsVolume"]] == [
            ("company", CERTIFICATES)
        ]
    container = pipeline["deploymentSpec"]["executors"]["exec-evaluate"]["container"]
    assert (container["resources"]["resourceCpuRequest"], container["resources"]["resourceCpuLimit"]) == ("500m", "2")
    assert {one["name"]: one["value"] for one in container["env"]} == {
        **dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), f"{CERTIFICATES}/ca-bundle.crt"),
        "HTTPS_PROXY": "http://proxy:3128",
        "HF_HOME": "/models",
    }


@pytest.mark.parametrize("site", sorted(SITES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_site_that_is_shipped_can_be_read_and_names_only_steps_that_there_are(site: Path) -> None:
    steps = {name for package in PACKAGES for name in tasks_of(package)}
    assert set(load_section(Platform, site).requests) <= steps


def test_a_person_can_start_tuning_from_the_form_as_it_stands() -> None:
    parameters = compiled(TUNE)["root"]["inputDefinitions"]["parameters"]
    assert all("defaultValue" in parameter for parameter in parameters.values())


def test_retraining_has_the_parameters_of_tuning_with_their_defaults() -> None:
    tuning, retraining = (Package.read(TUNE.with_name(f"{name}.yaml")).defaults for name in ("tune", "retrain"))
    # A retraining is always told what comes in, and what was trained on, which it reads as it is named.
    assert tuning.keys() - retraining.keys() == {"prompts", "data_revision"}
    assert retraining["reference"] is retraining["incoming"] is None
    for name in ("prompts", "data_revision", "incoming"):
        del tuning[name]
    assert {name: retraining[name] for name in tuning} == tuning


@ALL
def test_what_a_task_takes_from_the_pipeline_around_it_is_there(package: Path) -> None:
    whole = compiled(package)
    for component in [whole["root"], *whole["components"].values()]:
        known = set(component.get("inputDefinitions", {}).get("parameters", {}))
        for task in component.get("dag", {}).get("tasks", {}).values():
            given = task.get("inputs", {}).get("parameters", {}).values()
            assert {value["componentInputParameter"] for value in given if "componentInputParameter" in value} <= known

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
from components.pods import HUB_SECRET, S3_SECRET
from pipelines.cli.main import PACKAGE, main
from pipelines.local.run import compile_pipeline, defaults
from pipelines.monitor import monitor
from pipelines.retrain import retrain
from pipelines.tune import tune

PIPELINES = {pipeline.name: pipeline for pipeline in (tune, monitor, retrain)}
PACKAGES = [PACKAGE.with_name(f"{name}.yaml") for name in PIPELINES]
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
    assert (tmp_path / "compiled.yaml").read_text(encoding="utf-8") == PACKAGE.read_text(encoding="utf-8")


@ALL
def test_the_compiled_pipeline_holds_nothing_of_the_machine_and_installs_nothing(package: Path) -> None:
    text = package.read_text(encoding="utf-8")
    for place in (str(Path.home()), str(PACKAGE.parents[1]), sys.prefix):
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
    only_on_a_cluster = {"evaluation_gpus"}
    given = {name: value for name, value in defaults(pipeline).items() if value and name not in only_on_a_cluster}
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
        assert secrets == {S3_SECRET: True} | ({HUB_SECRET: True} if name == "exec-evaluate" else {})
        resources = executors[name]["container"]["resources"]
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(resources)


@ALL
def test_no_parameter_is_a_secret(package: Path) -> None:
    parameters = compiled(package)["root"]["inputDefinitions"]["parameters"]
    assert not [name for name in parameters if re.search("secret|key|token|password", name)]


def test_what_reads_paths_or_changes_the_registry_is_not_cached_and_retries_are_bounded() -> None:
    tasks = {
        name: task
        for component in [compiled(PACKAGE)["root"], *compiled(PACKAGE)["components"].values()]
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if not name.startswith(("condition", "exit-handler"))
    }
    assert {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")} == {
        "train",
        "decide",
        "finish",
    }
    retries = {name: task["retryPolicy"]["maxRetryCount"] for name, task in tasks.items()}
    assert retries == {"prepare-prompts": 2, "train": 1, "evaluate": 1, "decide": 2, "publish": 2, "finish": 2}


def test_a_person_can_start_tuning_from_the_form_as_it_stands() -> None:
    parameters = compiled(PACKAGE)["root"]["inputDefinitions"]["parameters"]
    assert all("defaultValue" in parameter for parameter in parameters.values())


def test_retraining_has_the_parameters_of_tuning_with_their_defaults() -> None:
    tuning, retraining = defaults(tune), defaults(retrain)
    assert {name: retraining[name] for name in tuning} == tuning

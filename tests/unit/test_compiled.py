import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Option
from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.monitor.component import monitor as step
from components.prepare_prompts.component import prepare_prompts
from pipelines.commands import PACKAGE, main
from pipelines.local import compile_pipeline, defaults
from pipelines.monitor import monitor
from pipelines.tune import tune

MONITOR = PACKAGE.with_name("monitor.yaml")


def compiled(package: Path) -> dict[str, Any]:
    """The pipeline itself; what only Kubernetes is told is a second document."""
    pipeline: dict[str, Any] = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    return pipeline


def test_the_compiled_pipelines_are_up_to_date() -> None:
    assert PACKAGE.read_text(encoding="utf-8") == compile_pipeline(tune), "run `drtune-pipeline compile`"
    assert MONITOR.read_text(encoding="utf-8") == compile_pipeline(monitor), "run `drtune-pipeline compile`"


def test_compiling_elsewhere_gives_the_same_text(tmp_path: Path) -> None:
    code = (
        "import pathlib; from pipelines.local import compile_pipeline; from pipelines.tune import tune\n"
        "pathlib.Path('compiled.yaml').write_text(compile_pipeline(tune), encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "compiled.yaml").read_text(encoding="utf-8") == PACKAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", [PACKAGE, MONITOR], ids=lambda path: path.name)
def test_the_compiled_pipeline_holds_nothing_of_the_machine_and_installs_nothing(package: Path) -> None:
    text = package.read_text(encoding="utf-8")
    for place in (str(Path.home()), str(PACKAGE.parents[1]), sys.prefix):
        assert place not in text
    assert "pip install" not in text


@pytest.mark.parametrize(("package", "steps"), [(PACKAGE, 5), (MONITOR, 1)], ids=["tune", "monitor"])
def test_every_step_runs_in_an_image_of_ours(package: Path, steps: int) -> None:
    executors = compiled(package)["deploymentSpec"]["executors"]
    assert len(executors) == steps
    assert all(executor["container"]["image"].startswith("drtune-") for executor in executors.values())


@pytest.mark.parametrize("package", [PACKAGE, MONITOR], ids=lambda path: path.name)
def test_every_parameter_is_described(package: Path) -> None:
    parameters = compiled(package)["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values())


@pytest.mark.parametrize(("command", "pipeline"), [("run", tune), ("monitor", monitor)], ids=["tune", "monitor"])
def test_the_defaults_of_the_command_are_those_of_the_pipeline(command: str, pipeline: GraphComponent) -> None:
    helps = {option.name: str(option.help) for option in main.commands[command].params if isinstance(option, Option)}
    shown = {name: found[1] for name, text in helps.items() if (found := re.search(r"\[default: (\S+)\]", text))}
    assert shown == {name: value for name, value in defaults(pipeline).items() if value}


def test_a_pipeline_can_go_on_when_something_drifted() -> None:
    @dsl.pipeline(name="again")
    def again(incoming: str) -> None:
        watched = step(reference="trained", incoming=incoming, scores="", release_scores="", policy="policy.yaml")
        with dsl.If(watched.outputs["Output"] == True, name="drifted"):  # noqa: E712 builds the condition
            prepare_prompts(prompts=incoming, data_revision="")

    assert "inputs.parameter_values['pipelinechannel--monitor-Output'] ==" in compile_pipeline(again)

import re
import subprocess
import sys
from pathlib import Path

import yaml
from click import Option

from pipelines.commands import PACKAGE, main
from pipelines.local import compile_pipeline, defaults
from pipelines.tune import tune


def test_the_compiled_pipeline_is_up_to_date() -> None:
    assert PACKAGE.read_text(encoding="utf-8") == compile_pipeline(tune), "run `drtune-pipeline compile`"


def test_compiling_elsewhere_gives_the_same_text(tmp_path: Path) -> None:
    code = (
        "import pathlib; from pipelines.local import compile_pipeline; from pipelines.tune import tune\n"
        "pathlib.Path('compiled.yaml').write_text(compile_pipeline(tune), encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "compiled.yaml").read_text(encoding="utf-8") == PACKAGE.read_text(encoding="utf-8")


def test_the_compiled_pipeline_holds_nothing_of_the_machine_and_installs_nothing() -> None:
    text = PACKAGE.read_text(encoding="utf-8")
    for place in (str(Path.home()), str(PACKAGE.parents[1]), sys.prefix):
        assert place not in text
    assert "pip install" not in text


def test_every_step_runs_in_an_image_of_ours() -> None:
    executors = yaml.safe_load(PACKAGE.read_text(encoding="utf-8"))["deploymentSpec"]["executors"]
    assert len(executors) == 5
    assert all(executor["container"]["image"].startswith("drtune-") for executor in executors.values())


def test_every_parameter_is_described() -> None:
    parameters = yaml.safe_load(PACKAGE.read_text(encoding="utf-8"))["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values())


def test_the_defaults_of_the_command_are_those_of_the_pipeline() -> None:
    helps = {option.name: str(option.help) for option in main.commands["run"].params if isinstance(option, Option)}
    shown = {name: found[1] for name, text in helps.items() if (found := re.search(r"\[default: (\S+)\]", text))}
    assert shown == {name: value for name, value in defaults(tune).items() if value}

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import drtune.cli.main
import pipelines.cli.main
from drtune.cli.console import CommandGroup
from drtune.contracts import ADAPTER
from drtune.errors import UserError
from drtune.publishing.registry import Registry
from tests.folders import make_folders

HEAVY = {"torch", "diffusers", "transformers", "kfp", "pandas", "numpy", "minio", "pydantic", "yaml", "jinja2"}


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(_commands(drtune.cli.main.main)), ids=" ".join)
def test_every_command_of_drtune_explains_itself(path: tuple[str, ...]) -> None:
    _check_help(drtune.cli.main.main, path)


@pytest.mark.parametrize("path", list(_commands(pipelines.cli.main.main)), ids=" ".join)
def test_every_command_of_the_pipeline_explains_itself(path: tuple[str, ...]) -> None:
    _check_help(pipelines.cli.main.main, path)


def _numeric_options(group: click.Group) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    for path in _commands(group):
        command: click.Command = group
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, click.types.FloatParamType):
                yield path, option


@pytest.mark.parametrize("group", [drtune.cli.main.main, pipelines.cli.main.main], ids=["drtune", "drtune-pipeline"])
def test_no_option_takes_a_number_that_is_none(group: click.Group) -> None:
    options = list(_numeric_options(group))
    assert len(options) == (3 if group is drtune.cli.main.main else 0)
    for path, option in options:
        for text in ("nan", "inf", "-inf", "1e999"):
            result = CliRunner().invoke(group, [*path, f"{option.opts[0]}={text}"])
            assert result.exit_code == 2
            assert f"'{option.opts[0]}'" in result.stderr


def _check_help(main: click.Group, path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    listed = result.stdout.partition("\nCommands:")[2].splitlines()
    assert not [line for line in listed if line.endswith("...")], "a first sentence is too long for the list"
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("module", ["drtune", "drtune.cli.main", "drtune.training.worker", "pipelines.cli.main"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


def test_what_needs_no_torch_comes_without_it() -> None:
    rooms = ("prompts.prepare", "publishing.registry", "publishing.gate", "evaluation.report.pages", "rewards")
    studies = ("evaluation.study.build", "evaluation.study.tally")
    code = "\n".join(["import sys", *(f"import drtune.{room}" for room in (*rooms, *studies)), "print(*sys.modules)"])
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "diffusers", "transformers"}.isdisjoint(loaded)


REFUSALS = [
    "train --reward beauty",
    "train --config nothing.yaml",
    "train --prompts nothing.csv",
    "train --set wandb_project=mine",
    "train --set evaluation.rewards=[nothing.py:fn]",
    "train --set base_model=/nothing --prompts few.txt",
    "train --set lora.init=few.txt --prompts few.txt",
    "sample --base-model /nothing --prompt a",
    "plan --set base_model=owner/nothing",
    "score . --prompts nothing.csv --reward beauty",
    "score . --prompts nothing.csv --reward nothing.py:fn",
    "score nothing --prompts nothing.csv --reward symmetry",
    "score . --prompts nothing.csv --reward symmetry",
    "sample --model nothing --prompt a",
    "sample --model nothing --prompts nothing.csv",
    "export --model nothing --format kohya --out a.safetensors",
    "evaluate --model nothing",
    "evaluate --model nothing --reference Bad=x",
    "train --reward mine.py:cold",
    "export --model model --format kohya --out a.safetensors",
    "decide --report nothing",
    "decide --policy nothing.yaml",
    "publish --name Bad",
    "study make --report nothing",
    "plan --gpu nothing",
]


def test_what_cannot_be_used_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (make_folders(tmp_path).model / ADAPTER).write_bytes(b"damaged")
    (tmp_path / "mine.py").write_text("def warm(images, prompts): ...")
    (tmp_path / "few.txt").write_text("".join(f"a cat, {number} times\n" for number in range(30)))
    code = f"""
import sys
from click.testing import CliRunner
from drtune.cli.main import main

for command in {REFUSALS!r}:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\\n") == 1, (
        command, result.stderr, result.exception)
    assert "torch" not in sys.modules, command
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.glob("runs/*")) == []


def test_what_a_pipeline_cannot_use_here_is_refused_before_kfp_is_imported(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    refusals = ["--set stepz=2", "--prompts nothing.csv", "--policy nothing.yaml", "--name Bad", "--out taken"]
    code = f"""
import sys
from click.testing import CliRunner
from pipelines.cli.main import main

for command in [*(f"run {{options}}" for options in {refusals!r}), "monitor --reference a --incoming b --out taken"]:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\\n") == 1, (
        command, result.stderr, result.exception)
    assert "kfp" not in sys.modules, command
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "steps=0"], "steps=0"),
        (["train", "--set", "stepz=3"], "stepz: no such key; did you mean steps?"),
        (["train", "--set", "sampler.steps=3"], "method.trained_steps=4 is more than sampler.steps=3"),
        (["train", "--config", "nothing.yaml"], "config nothing.yaml: cannot be read"),
        (["train", "--set", "base_model=somewhere/else"], "give --prompts"),
        (["config", "frob"], "config 'frob': no setting has this word"),
        (["plan", "--gpu", "80"], "'80' is no size of memory"),
        (["plan", "--processes", "3"], "batch_size=8 cannot be shared evenly by processes=3"),
        (["plan", "--set", "base_model=somewhere/else"], "its architecture is not known without a download"),
        (["sample", "--model", "nothing", "--prompt", "a"], "nothing/manifest.json: no TunedModel"),
        (["sample", "--prompts", "nothing.txt"], "prompts nothing.txt: cannot be read"),
        (["export", "--model", "nothing", "--format", "merged", "--out", "x"], "nothing/manifest.json: no TunedModel"),
        (["prompts", "nothing.txt", "--out", "prompts"], "nothing.txt: cannot be read"),
        (["decide", "--report", "nothing"], "nothing/manifest.json: no EvaluationReport"),
        (["publish", "--model", "nothing", "--name", "x"], "nothing/manifest.json: no TunedModel"),
        (["registry", "show", "nothing"], "nothing"),
        (["study", "make", "--report", "nothing"], "nothing/manifest.json: no EvaluationReport to read here"),
        (["study", "count", "votes.json", "--study", "nothing"], "nothing/manifest.json: no Study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(drtune.cli.main.main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--set", "steps=0"],
        # All that is heavy is imported by this one, and must say nothing of itself.
        pytest.param(["plan", "--set", "base_model=somewhere/else"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_process_with_a_mistake_says_one_line_and_ends_with_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "drtune.cli.main", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--frob"],
        ["train", "--resume", "--overwrite"],
        ["prompts", "a.txt"],
        ["sample"],
        ["sample", "--prompt", "a", "--prompts", "a.txt"],
        ["sample", "--prompt", "a", "--model", "m", "--base-model", "b"],
        ["sample", "--prompt", "a", "--compare", "--base-model", "b"],
        ["export", "--out", "x", "--format", "onnx"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(drtune.cli.main.main, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config=nothing.yaml"], "config nothing.yaml: cannot be read"),
        pytest.param(["--config=empty.yaml"], "nothing/manifest.json: no PromptSet", marks=pytest.mark.slow),
        pytest.param(["--config=empty.yaml", "--resume", "--overwrite"], "give one of them", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_ends_a_worker_with_one_line_and_exit_code_2(
    tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty.yaml").touch()
    command = [sys.executable, "-m", "drtune.training.worker", "--prompts=nothing", "--out=model", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty.yaml"]


def test_under_torchrun_the_command_says_what_to_start_instead(tmp_path: Path) -> None:
    command = ["train", "--out", str(tmp_path / "model")]
    result = CliRunner().invoke(drtune.cli.main.main, command, env={"TORCHELASTIC_RUN_ID": "none"})
    assert (result.exit_code, result.stdout) == (2, "")
    assert "with torchrun start -m drtune.training.worker --config=FILE" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_says_which_prompts_it_began_with(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.txt", tmp_path / "model"
    file.write_text("".join(f"prompt number {number}\n" for number in range(30)), encoding="utf-8")
    made = CliRunner().invoke(drtune.cli.main.main, ["prompts", str(file), "--out", f"{out}.prompts"])
    assert made.exit_code == 0, made.output
    file.write_text("another one\n", encoding="utf-8")
    result = CliRunner().invoke(drtune.cli.main.main, ["train", f"--prompts={file}", f"--out={out}", "--resume"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: prompts {file}: not those that the run began with, which are in {out}.prompts; go on with "
        f"--prompts={out}.prompts, or start again with --overwrite instead of --resume\n"
    )


def test_a_model_that_was_tuned_on_a_prompt_set_from_elsewhere_is_evaluated_on_what_is_given(tmp_path: Path) -> None:
    model = make_folders(tmp_path).model
    result = CliRunner().invoke(drtune.cli.main.main, ["evaluate", f"--model={model}", f"--out={tmp_path / 'report'}"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: prompts {model}.prompts: not there; give --prompts")


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    result = CliRunner().invoke(drtune.cli.main.main, ["train", "--out", str(tmp_path / "model")])
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine"]


@click.group(cls=CommandGroup)
def _failing() -> None:
    pass


@_failing.command()
@click.argument("number", type=int)
def writing(number: int) -> None:
    raise OSError(number, "some reason", "model/config.yaml")


@_failing.command()
def erring() -> None:
    raise UserError("x=1: too small; give 2")


def test_a_full_disk_is_one_line_and_exit_code_2() -> None:
    result = CliRunner().invoke(_failing, ["writing", str(errno.ENOSPC)])
    assert (result.exit_code, result.stderr) == (2, "error: model/config.yaml: some reason; free some space\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["export", "--model", "a" * 300, "--format=merged", "--out=out"], "File name too long"),
        (["train", "--prompts", "loop", "--out=out"], "Too many levels of symbolic links"),
        (["train", "--config", "pipe", "--out=out"], "config pipe: cannot be read (is a pipe or a device)"),
        (["prompts", "pipe.txt", "--out=out"], "prompts pipe.txt: cannot be read (is a pipe or a device)"),
        (["prompts", "endless.txt", "--out=out"], "endless.txt: cannot be read (is a pipe or a device)"),
        (["prompts", "prompts.txt", "--out", "pipe", "--overwrite"], "output pipe: is no file and no folder"),
        (["prompts", "prompts.txt", "--out", "prompts.txt/child"], "lies in prompts.txt, which it would be made from"),
        (["decide", "--report=a", "--out=folder", "--overwrite"], "folder: holds files that drtune did not write"),
        (["decide", "--report", "folder"], "folder/manifest.json: no EvaluationReport to read here (is a pipe"),
        (["publish", "--name=a", "--registry=http://[::1"], "storage 'http://[::1': wanted a folder"),
        (["sample", "--base-model=miniature", "--prompt=\udcff"], "'--prompt=\\udcff' is not UTF-8"),
        (["train", "--config=a\nb", "--out=out"], "config a b: cannot be read (No such file or directory)"),
        (["registry", "list", "a\0b"], "'a\\x00b' is not UTF-8, or holds a NUL"),
    ],
)
def test_what_is_no_file_or_no_name_is_told_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "pipe.txt", "folder/manifest.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    (tmp_path / "prompts.txt").write_text("a cat\n" * 3)
    result = CliRunner().invoke(drtune.cli.main.main, arguments)
    assert (result.exit_code, result.stderr.count("rror: ")) == (2, 1)
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1 or result.stderr.startswith("Usage: ")


def test_another_error_of_the_system_keeps_its_traceback() -> None:
    result = CliRunner().invoke(_failing, ["writing", str(errno.EIO)])
    assert isinstance(result.exception, OSError)
    assert result.exit_code == 1


def printed(*arguments: object) -> Any:
    return json.loads(CliRunner().invoke(drtune.cli.main.main, [*map(str, arguments), "--json"]).stdout)


def test_facts_are_printed_as_json(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    [eta] = printed("config", "sampler.eta")
    assert (eta["key"], eta["default"]) == ("sampler.eta", "0.0")
    assert printed("registry", "list", f"--registry={tmp_path / 'registry'}") == []
    Registry(str(tmp_path / "registry")).publish("mine", folders.model, folders.report, folders.decision)
    assert [
        (entry["name"], entry["version"])
        for entry in printed("registry", "list", f"--registry={tmp_path / 'registry'}")
    ] == [("mine", "v1")]


def test_a_user_error_is_printed_as_it_is() -> None:
    result = CliRunner().invoke(_failing, ["erring"])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: x=1: too small; give 2\n")

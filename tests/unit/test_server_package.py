import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drtune.errors import UserError
from pipelines.server.package import Package, check_files
from tests.kfp_api import RECORDINGS

PARAMETERS = {
    "prompts": {"parameterType": "STRING", "isOptional": True, "defaultValue": "data/miniature.jsonl"},
    "name": {"parameterType": "STRING"},
    "count": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
    "rate": {"parameterType": "NUMBER_DOUBLE", "isOptional": True},
    "force": {"parameterType": "BOOLEAN", "isOptional": True},
    "overrides": {"parameterType": "LIST", "isOptional": True, "defaultValue": []},
    "resources": {"parameterType": "STRUCT", "isOptional": True},
    "config": {"parameterType": "STRING", "isOptional": True, "defaultValue": "configs/miniature.yaml"},
}


def task(name: str, component: str) -> dict[str, object]:
    return {"taskInfo": {"name": name}, "componentRef": {"name": component}, "cachingOptions": {"enableCache": True}}


def package(**parameters: dict[str, object]) -> Package:
    """One step at the top, and one within a condition."""
    leaf = {"executorLabel": "exec"}
    return Package(
        {
            "pipelineInfo": {"name": "tried"},
            "root": {
                "dag": {"tasks": {"train": task("train", "comp-train"), "condition-1": task("worthy", "comp-if")}},
                "inputDefinitions": {"parameters": parameters or PARAMETERS},
            },
            "components": {
                "comp-train": leaf,
                "comp-publish": leaf,
                "comp-if": {"dag": {"tasks": {"publish": task("publish it", "comp-publish")}}},
            },
        }
    )


def test_values_have_the_type_of_their_parameter() -> None:
    given_ = ["name=3", "count=3", "rate=3", "force=true", 'overrides=["steps=20", "3"]', 'resources={"gpus": 2}']
    assert package().arguments(given_) == {
        "name": "3",
        "count": 3,
        "rate": 3,
        "force": True,
        "overrides": ["steps=20", "3"],
        "resources": {"gpus": 2},
    }


def test_a_value_may_hold_equals_signs_and_be_empty() -> None:
    assert package().arguments(["name=a=b", "prompts="]) == {"name": "a=b", "prompts": ""}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("promptz=x", "promptz: pipeline tried has no such parameter; did you mean prompts?"),
        ("zzz=1", "zzz: pipeline tried has no such parameter; there are config, count, "),
        ("prompts", "prompts: a parameter is given as KEY=VALUE"),
        ("=x", "=x: a parameter is given as KEY=VALUE"),
        ("name=again", "name: given twice"),
        ("count=3.5", "count=3.5: wants a whole number"),
        ("count=true", "count=true: wants a whole number"),
        ("rate=fast", "rate=fast: wants a number"),
        ("rate=NaN", "rate=NaN: wants a number"),
        ("rate=1e999", "rate=1e999: wants a number"),
        ('resources={"a": Infinity}', 'resources={"a": Infinity}: wants a JSON object'),
        ("force=1", "force=1: wants true or false"),
        ("overrides=steps=20", 'overrides=steps=20: wants a JSON list, such as \'["one", "two"]\''),
        ("resources=[]", "resources=[]: wants a JSON object"),
    ],
)
def test_a_wrong_parameter_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        package().arguments(["name=x", assignment])
    assert str(raised.value).startswith(message)


def test_a_parameter_without_default_must_be_given() -> None:
    with pytest.raises(UserError, match="name: has no default; give name=VALUE"):
        package().arguments([])


@given(st.lists(st.text(max_size=8), max_size=4), st.text(max_size=12))
def test_lists_and_texts_come_through_as_they_are(texts: list[str], name: str) -> None:
    arguments = package().arguments([f"overrides={json.dumps(texts)}", f"name={name}"])
    assert arguments == {"overrides": texts, "name": name}


def test_steps_are_what_runs_in_a_container_wherever_it_stands() -> None:
    assert package().steps == {"train": "train", "publish": "publish it"}


def test_packages_are_the_same_whatever_the_order_and_the_kind_of_number(tmp_path: Path) -> None:
    one = package(number={"parameterType": "NUMBER_DOUBLE", "defaultValue": 3})
    other = Package.of_server(json.loads(json.dumps(dict(reversed(one.spec.items()))).replace(": 3}", ": 3.0}")))
    assert one.same_as(other)
    assert not one.same_as(package(number={"parameterType": "NUMBER_DOUBLE", "defaultValue": 4}))
    path = tmp_path / "package.yaml"
    path.write_text(one.text(), encoding="utf-8")
    assert Package.read(path) == one


def test_what_is_said_for_kubernetes_alone_counts() -> None:
    one = Package(package().spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec": {}}}}}})
    assert not one.same_as(package())
    assert one.same_as(Package.of_server({"pipeline_spec": one.spec, "platform_spec": one.platform}))
    assert Package(*yaml.safe_load_all(one.text())) == one


@pytest.mark.parametrize("content", ["", "a: [", "just text", "a: 1\n---\nb: 2\n---\nc: 3", "apiVersion: v1"])
def test_what_is_no_compiled_pipeline_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "package.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no compiled pipeline"):
        Package.read(path)


def test_the_configuration_is_checked_when_it_is_at_hand(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("steps: 20\nema_decay: 0.9\n", encoding="utf-8")
    given = {"config": str(config), "overrides": ["batch_size=4"]}
    told = f'config={config}: in no commit as it is here, so in no image; "config=$(cat {config})" sends its text'
    assert check_files(package(), given) == [told]
    with pytest.raises(UserError, match="stepz: no such key"):
        check_files(package(), {"config": str(config), "overrides": ["stepz=4"]})
    with pytest.raises(UserError, match="overrides: 4 is no text"):
        check_files(package(), {"config": str(config), "overrides": [4]})
    assert check_files(package(), {"config": config.read_text(encoding="utf-8").rstrip("\n")}) == []
    assert check_files(package(), {"config": "elsewhere.yaml"}) == [
        "elsewhere.yaml is not here: the run itself checks it"
    ]
    assert check_files(package(only={"parameterType": "STRING"}), {}) == []


def test_a_file_that_no_image_can_have_is_named_with_what_sends_it(tmp_path: Path) -> None:
    def told(name: str) -> list[str]:
        return [line.partition(":")[0] for line in check_files(package(), {name: str(file)})]

    file = tmp_path / "given"
    file.write_text("a red circle\na blue ring\n", encoding="utf-8")
    assert told("prompts") == [f"prompts={file}"]
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    run(["git", "init", "--quiet"])
    assert told("prompts") == [f"prompts={file}"]
    run(["git", "add", "given"])
    run(["git", "-c", "user.name=x", "-c", "user.email=x@y.z", "commit", "--quiet", "--message=given"])
    assert told("prompts") == []
    file.write_text("a red square\n", encoding="utf-8")
    assert told("prompts") == [f"prompts={file}"]


@pytest.mark.parametrize(
    ("name", "file", "content", "can_be_sent"),
    [
        ("prompts", "a.txt", "a red circle\na blue ring\n", True),
        ("prompts", "a.txt", "a red circle\n", False),  # which would be taken for a path
        ("prompts", "a.jsonl", '{"text": "a red circle"}\n{"text": "a blue ring"}\n', False),  # for prompts a line
        ("config", "a.yaml", "steps: 20\nbatch_size: 4\n", True),
        ("config", "a.yaml", "steps: 20\n", False),
        ("config", "a.yaml", "{steps: 20}\n", True),
        ("prompts", "a.txt", "a red circle\n" * 1100, True),
        (
            "prompts",
            "a.txt",
            "a red circle\n" * 1250,
            False,
        ),  # more than MOST_GIVEN, once its lines' ends are two bytes
    ],
)
def test_the_text_of_a_file_is_sent_where_it_will_be_read_as_the_file_would(
    name: str, file: str, content: str, can_be_sent: bool, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    [told] = check_files(package(), {name: str(path)})
    assert told.endswith(
        "sends its text" if can_be_sent else "; put it on s3://, or commit it and build the images again"
    )


def test_more_text_than_a_run_can_carry_is_refused_by_the_largest_of_it() -> None:
    lines = "a red circle\n" * 1100
    assert check_files(package(), {"prompts": lines}) == []
    with pytest.raises(UserError) as raised:
        check_files(package(), {"prompts": lines, "config": "# ä\n" * 400})
    assert str(raised.value).startswith("prompts: has 15 KiB, and all parameters together 18 KiB of at most 16; ")
    assert str(raised.value).endswith("; put it into a file on s3:// and give its address")


def test_a_step_stands_where_argo_puts_its_node() -> None:
    for name, places in {
        "tune": {"train": "root.exit-handler-1.train", "publish": "root.exit-handler-1.condition-2.publish"},
        "retrain": {
            "monitor": "root.monitor",
            "evaluate": "root.condition-1.tune.exit-handler-1.evaluate",
            "finish": "root.condition-1.tune.exit-handler-1.onExit.finish",
        },
    }.items():
        recorded = Package(json.loads((RECORDINGS / "pipelines.json").read_text(encoding="utf-8"))[name])
        assert recorded.places.keys() == recorded.steps.keys()
        assert {key: ".".join(recorded.places[key]) for key in places} == places

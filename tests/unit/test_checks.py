"""What is refused before a run trains, by the command that starts it here and by the one that submits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pipelines.cli.main
from components.checks import check_in_step, check_parameters, check_services
from drtune.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
GIVEN: dict[str, Any] = {
    "config": str(CONFIGS / "miniature.yaml"),
    "overrides": [],
    "cluster": "",
    "cluster_overrides": [],
    "references": [],
    "policy": str(CONFIGS / "gate.yaml"),
    "name": "a-name",
}
MISTAKES = [
    ({"name": "My Model"}, "name 'My Model': wanted"),
    ({"overrides": ["stepz=3"]}, "stepz: no such key; did you mean steps?"),
    ({"overrides": ["evaluation.rewards=[preference]", "rewards={brightness: 1}"]}, "policy: against.base.symmetry is"),
    ({"overrides": ["evaluation.features=none"]}, "policy: limits.min_diversity is not measured with"),
    ({"overrides": ["evaluation.rewards=[symmetry]"]}, "policy: limits.max_held_out_drop needs a reward"),
    ({"overrides": [3]}, "overrides: 3 is no text"),
    ({"references": ["mj"]}, "reference 'mj': wanted NAME=PLACE"),
    ({"references": ["base=mj.zip"]}, "reference 'base': wanted lower-case letters"),
    ({"references": ["a=x.zip", "a=y.zip"]}, "reference a: two have this name"),
    ({"config": "", "overrides": ["steps=3"]}, "overrides: config is empty"),
    ({"cluster_overrides": ["nodes=3"]}, "cluster_overrides: cluster is empty"),
    ({"evaluation_gpus": ""}, "evaluation_gpus=: wanted 0 or 1"),
    ({"evaluation_gpus": "two"}, "evaluation_gpus=two: wanted 0 or 1"),
    ({"cluster": str(CONFIGS / "cluster.yaml"), "cluster_overrides": ["nodez=3"]}, "nodez: no such key"),
    (
        {"cluster": str(CONFIGS / "cluster.yaml")},
        "batch_size=8: cannot be shared evenly by the 16 processes of 2 nodes; give a multiple",
    ),
]
ABSENT = [
    ({"config": "nothing.yaml"}, "config nothing.yaml: cannot be read"),
    ({"policy": "nothing.yaml"}, "policy nothing.yaml: cannot be read"),
    ({"cluster": "nothing.yaml"}, "config nothing.yaml: cannot be read"),
    ({"references": ["mj=nothing.zip"]}, "reference mj=nothing.zip: is not there"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_mistake_in_the_parameters_is_refused(change: dict[str, Any], message: str, elsewhere: bool) -> None:
    with pytest.raises(UserError) as refused:
        check_parameters(GIVEN | change, elsewhere=elsewhere)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "given",
    [
        GIVEN | {"config": "s3://settings/mine.yaml", "policy": "{min_promptz: 8}"},
        {"reference": "a.txt", "policy": "{min_promptz: 8}"},  # of the pipeline that monitors
        GIVEN | {"monitor_policy": "{min_promptz: 8}"},
    ],
)
def test_a_policy_is_read_wherever_the_configuration_is(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^policy given as text .*min_promptz: no such key"):
        check_parameters(given, elsewhere=True, environment={})


@pytest.mark.parametrize(("change", "message"), ABSENT)
def test_a_file_that_is_not_there_is_refused_where_the_run_will_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_parameters(GIVEN | change, elsewhere=False)
    assert str(refused.value).startswith(message)
    name = "nothing.zip" if "references" in change else "nothing.yaml"
    assert check_parameters(GIVEN | change, elsewhere=True) == [f"{name} is not here: the run itself checks it"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wandb_project=mine", "wandb_project=mine: Weights & Biases is not installed"),
        ("evaluation.rewards=[symmetry, preference, nothing.py:fn]", "reward nothing.py:fn: nothing.py cannot be read"),
    ],
)
def test_what_this_machine_lacks_counts_only_here(override: str, message: str) -> None:
    assert check_parameters(GIVEN | {"overrides": [override]}, elsewhere=True) == []
    with pytest.raises(UserError) as refused:
        check_parameters(GIVEN | {"overrides": [override]}, elsewhere=False)
    assert str(refused.value).startswith(message)


def test_a_base_is_looked_for_where_it_is_tuned() -> None:
    given = GIVEN | {"policy": "", "overrides": ["base_model=/nothing", "batch_size=16"]}
    with pytest.raises(UserError, match=r"base_model='/nothing', .* no such folder"):
        check_parameters(given, elsewhere=False)
    assert check_parameters(given | {"cluster": str(CONFIGS / "cluster.yaml")}, elsewhere=False) == []


def test_a_policy_may_name_a_reference_that_is_given(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("min_prompts: 8\nagainst: {mj: {symmetry: {max_drop: 1}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"policy: against\.mj is no reference of this run; give it as --reference mj"):
        check_parameters(GIVEN | {"policy": str(policy)}, elsewhere=False)
    check_parameters(GIVEN | {"policy": str(policy), "references": [f"mj={tmp_path}"]}, elsewhere=False)


def test_the_first_step_misses_a_policy_but_not_what_may_be_in_another_image(tmp_path: Path) -> None:
    given = GIVEN | {"registry": str(tmp_path / "registry"), "config": "nothing.yaml"}
    with pytest.raises(UserError, match=r"config nothing\.yaml: cannot be read"):
        check_in_step({}, **given)
    with pytest.raises(UserError, match=r"policy nothing\.yaml: cannot be read"):
        check_in_step({}, **given | {"policy": "nothing.yaml"})


def test_the_first_step_misses_a_reference_beside_its_image_and_tells_of_one_that_may_be_on_a_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = GIVEN | {"registry": str(tmp_path / "registry")}
    with pytest.raises(UserError, match=r"reference mj=mj\.zip: is not there"):
        check_services(given | {"references": ["mj=mj.zip"]})
    check_services(given | {"references": ["mj=/models/mj.zip"]})
    check_in_step({}, **given | {"references": [f"mj={tmp_path}"]})
    assert capsys.readouterr().out == ""
    given["policy"] = ""  # that of the miniature asks for what another base cannot be asked
    sdxl = ["base_model=stabilityai/stable-diffusion-xl-base-1.0"]
    references = ["mj=/models/mj.zip"]
    assert check_parameters(
        given | {"overrides": sdxl, "evaluation_gpus": "0", "references": references}, elsewhere=True
    ) == [
        "/models/mj.zip is not here: the run itself checks it",
        f"evaluation_gpus=0: {sdxl[0].removeprefix('base_model=')} is evaluated without a GPU; 1 asks for one",
    ]
    assert check_parameters(given | {"overrides": sdxl, "evaluation_gpus": "1"}, elsewhere=True) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name=My Model"], "name 'My Model': wanted"),
        (["--reference=mj=nothing.zip"], "reference mj=nothing.zip: is not there"),
        (["--policy=nothing.yaml"], "policy nothing.yaml: cannot be read"),
        (["--set=evaluation.features=none"], "policy: limits.min_diversity"),
        (["--registry=pipelines/tune.yaml/registry"], "storage "),
        (["--registry=/proc/registry"], "registry /proc/registry: "),
        (["--registry=s3://bucket/x"], "storage s3://bucket/x: AWS_ACCESS_KEY_ID"),
    ],
    ids=str,
)
def test_a_run_here_is_refused_before_its_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    out = tmp_path / "run"
    result = CliRunner().invoke(pipelines.cli.main.main, ["run", f"--out={out}", *options])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert not out.exists()

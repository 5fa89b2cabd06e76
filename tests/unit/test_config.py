"""The configuration tree: what it accepts, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from drtune.config import Config, RewardTerm, differences, load_config
from drtune.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stpes=8", "stpes: no such key; the keys are base_model, "),
        ("method.k=2", "method.k: no such key; the keys are name, trained_steps, early_stop"),
        ("rewards.symmetry.k=2", "rewards.symmetry.k: no such key; the keys are weight, hinge, target"),
        ("steps=many", "steps='many': Input should be a valid integer"),
        ("steps=2.5", "steps=2.5: Input should be a valid integer"),
        ("steps=0", "steps=0: Input should be greater than or equal to 1"),
        ("steps.a=1", "steps="),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate=-1: Input should be greater than 0"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate=nan: Input should be a finite number"),
        ("sampler.guidance_scale=0.5", "sampler.guidance_scale=0.5: "),
        ("method.trained_steps=13", "method.trained_steps=13 is more than sampler.steps=12: give at most 12"),
        ("method.early_stop=13", "method.early_stop=13 is more than sampler.steps=12: give at most 12"),
        ("method.trained_steps=11", "method.trained_steps=11 does not fit into the 10 steps"),
        ("method.name=magic", "method.name='magic': Input should be 'drtune', 'refl', "),
        ("method={name: draft_k, trained_steps: 13}", "method.trained_steps=13 is more than sampler.steps=12"),
        ("method={name: refl, early_stop: 13}", "method.early_stop=13 is more than sampler.steps=12"),
        ("method={name: direct_align, early_stop: 12}", "method.early_stop=12 must be less than sampler.steps=12"),
        ("sampler={name: euler, eta: 0.5}", "sampler.eta=0.5 needs sampler.name=ddim, not euler"),
        (
            "rewards.symmetry={hinge: 1, target: 1}",
            "rewards.symmetry={'hinge': 1, 'target': 1}: hinge and",
        ),
        ("rewards.symmetry={praise: a}", "rewards.symmetry={'praise': 'a'}: a relative reward needs both"),
        ("rewards.symmetry=true", "rewards.symmetry=True: "),
        ("held_out.reward=symmetry", "held_out.max_drop: is missing"),
        ("held_out={reward: beauty, max_drop: 0.1}", "held_out.reward='beauty': no reward 'beauty'; "),
        ("held_out={reward: symmetry, max_drop: 1, a: 1}", "held_out.a: no such key; the keys are reward, max_drop"),
        ("rewards.beauty=1", "rewards: no reward 'beauty'; there are symmetry, "),
        ("rewards={}", "rewards is empty"),
        ("evaluation.rewards=[beauty]", "evaluation.rewards.0='beauty': "),
        ("processes=3", "batch_size=8 cannot be shared evenly by processes=3: give a multiple of 3"),
        ("steps", "--set 'steps': wanted key=value"),
        ("steps={", "--set 'steps={': '{' is not a YAML value"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(None, [override])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"seed=-1.*; ema_decay=2"):
        load_config(None, ["seed=-1", "ema_decay=2"])


def test_a_file_is_overlaid_by_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7\nsampler: {steps: 20}\n")
    config = load_config(path, ["sampler.guidance_scale=3", "optimizer.learning_rate=1e-4", "rewards.preference=0.5"])
    assert (config.steps, config.sampler.steps, config.sampler.guidance_scale) == (7, 20, 3.0)
    assert config.optimizer.learning_rate == 1e-4
    assert config.rewards == {"preference": RewardTerm(weight=0.5)}


def test_whole_floats_are_integers_as_kubeflow_sends_them() -> None:
    assert load_config(None, ["steps=50.0"]).steps == 50


@pytest.mark.parametrize("content", ["- a list", "steps: [", "\xff\xfe"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.yaml: "):
        load_config(path)


@given(
    st.builds(
        dict,
        steps=st.integers(1, 10**6),
        seed=st.integers(0, 2**40),
        ema_decay=st.floats(0, 0.9999),
        base_model=st.text(max_size=40),
        rewards=st.dictionaries(
            st.sampled_from(["symmetry", "preference"]), st.floats(allow_nan=False, allow_infinity=False), min_size=1
        ),
    )
)
def test_what_is_written_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]) -> None:
    config = Config.model_validate(tree)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path) == config
    assert load_config(path).sha256() == config.sha256()


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["drtune", "refl", "leapalign", "euler", "fp16", "full", "symmetry", "my.py:reward"]),
    st.lists(st.integers(-1, 3), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(0, 3), max_size=2),
)


def keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the tree."""
    found = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += keys(field.annotation, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return [*found, *(f"rewards.symmetry.{name}" for name in RewardTerm.model_fields)] if not prefix else found


@settings(max_examples=300, derandomize=True)
@given(st.dictionaries(st.one_of(st.sampled_from(keys()), st.text(max_size=12)), VALUES, max_size=6))
def test_any_settings_are_parsed_or_refused_in_one_line(chosen: dict[str, object]) -> None:
    config, refusal = parse(chosen)
    if config is None:
        assert len(refusal.splitlines()) == 1
    else:
        assert parse(config.model_dump()) == (config, "")


def parse(values: dict[str, object]) -> tuple[Config | None, str]:
    try:
        return load_config(None, [f"{key}={json.dumps(value)}" for key, value in values.items()]), ""
    except UserError as error:
        return None, str(error)


def test_differences_name_both_values() -> None:
    other = load_config(None, ["optimizer.learning_rate=1e-3", "steps=9"])
    assert differences(Config(), other) == [
        "optimizer.learning_rate (0.0002 here, 0.001 there)",
        "steps (80 here, 9 there)",
    ]

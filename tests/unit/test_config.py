"""The configuration tree: what it accepts, and how it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from drtune.config import Config, HeldOut, RewardTerm, differences, listing, load_config
from drtune.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stpes=8", "stpes: no such key; did you mean steps?"),
        ("learning_rate=1e-4", "learning_rate: no such key; did you mean optimizer.learning_rate?"),
        ("frob=8", "frob: no such key; the keys are base_model, "),
        ("method.k=2", "method.k: no such key; the keys are name, trained_steps, placement"),
        ("rewards.symmetry.k=2", "rewards.symmetry.k: no such key; the keys are weight, hinge, target"),
        ("steps=many", "steps=many: Input should be a valid integer"),
        ("steps=true", "steps=true: Input should be a valid integer"),
        ("steps=1:30", "steps=1:30: Input should be a valid integer"),
        ("steps=null", "steps=null: Input should be a valid integer"),
        ("steps=100000000", "steps=100000000: Input should be less than or equal to 1000000"),
        ("steps=" + "9" * 5000, f"steps={80 * '9'}... (5000 characters): Unable to parse"),
        ("compute.compile=yes", "compute.compile=yes: Input should be true or false"),
        ("steps=2.5", "steps=2.5: Input should be a valid integer"),
        ("other_sizes=[1216x832, 0x64]", "other_sizes.1=0x64: give width and height in pixels, as in 1216x832"),
        ("other_sizes=1216x832", "other_sizes=1216x832: Input should be a valid tuple"),
        ("steps=0", "steps=0: Input should be greater than or equal to 1"),
        ("steps.a=1", "--set 'steps.a=1': steps is a single value and has no a"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate=-1: Input should be greater than 0"),
        ("rewards.symmetry=inf", "rewards.symmetry.weight=inf: Input should be a finite number"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan: Input should be a finite number"),
        ("sampler.guidance_scale=0.5", "sampler.guidance_scale=0.5: "),
        ("method.trained_steps=13", "method.trained_steps=13 is more than sampler.steps=12: give at most 12"),
        ("method.early_stop=13", "method.early_stop=13 is more than sampler.steps=12: give at most 12"),
        ("method.trained_steps=11", "method.trained_steps=11 does not fit into the 10 steps"),
        ("method.name=magic", "method.name=magic: Input should be 'drtune', 'refl', "),
        ("method={name: draft_k, trained_steps: 13}", "method.trained_steps=13 is more than sampler.steps=12"),
        ("method={name: refl, early_stop: 13}", "method.early_stop=13 is more than sampler.steps=12"),
        (
            "method={name: srpo, early_stop: 11}",
            "method.early_stop=11: srpo cannot take the last 2 of sampler.steps=12: give at most 10",
        ),
        (
            "method={name: direct_align, early_stop: 12}",
            "method.early_stop=12: direct_align cannot take the last 1 of sampler.steps=12: give at most 11",
        ),
        (
            "method={name: srpo, early_stop: 2, recoveries: 3}",
            "method.recoveries=3 are among the method.early_stop=2 steps that srpo may take: give at most 2",
        ),
        ("method.pictures=photos", "method.pictures='photos': drtune starts from noise; give method.name=srpo or dir"),
        ("method.rescale=0", "method.rescale=0: drtune does not read it; give method.name=flowbp_sparse or flowbp_b"),
        (
            "method={name: flowbp_bridge, tau: 0.1}",
            "method.tau=0.1: flowbp_bridge does not read it; give method.name=l",
        ),
        ("method={name: leapalign, rescale: 1}", "method.rescale=1: leapalign does not read it; give method.name=flo"),
        ("method.praise_surplus=[0.1]", "method.praise_surplus.1: "),
        ("method.praise_surplus=0.1", "method.praise_surplus=0.1: "),
        ("sampler={name: euler, eta: 0.5}", "sampler.eta=0.5 needs sampler.name=ddim, not euler"),
        (
            "rewards.symmetry={hinge: 1, target: 1}",
            "rewards.symmetry={'hinge': '1', 'target': '1'}: hinge and",
        ),
        ("rewards.symmetry={praise: a}", "rewards.symmetry={'praise': 'a'}: a relative reward needs both"),
        ("rewards.symmetry=true", "rewards.symmetry.weight=true: Input should be a valid number"),
        ("held_out.reward=symmetry", "held_out.max_drop: is missing"),
        ("held_out={reward: beauty, max_drop: 0.1}", "held_out.reward=beauty: no reward 'beauty'; "),
        ("held_out={reward: symmetry, max_drop: 1, a: 1}", "held_out.a: no such key; the keys are reward, max_drop"),
        (
            "held_out={reward: symmetry, max_drop: 1}",
            "held_out.reward=symmetry is tuned on, and cannot watch what that does: give a reward that does not stand",
        ),
        ("rewards.beauty=1", "rewards: no reward 'beauty'; there are symmetry, "),
        ("rewards={}", "rewards is empty"),
        ("evaluation.rewards=[beauty]", "evaluation.rewards.0=beauty: "),
        ("processes=3", "batch_size=8 cannot be shared evenly by processes=3: give a multiple of 3"),
        ("batch_size=1000000", "batch_size=1000000 over processes=1 is 1000000 pictures at once: give compute.micro_"),
        (
            "compute.rollout_batch_size=2",
            "compute.rollout_batch_size=2 is less than the micro-batch of 8 that is taken",
        ),
        (
            "compute={keep_graphs: 1, micro_batch_size: 2, rollout_batch_size: 4}",
            "compute.rollout_batch_size=4: graphs are kept from the roll-out, which then has the micro-batch of 2: ",
        ),
        (
            "evaluation.sampler.base_steps=12",
            "evaluation.sampler={'base_steps': '12'}: base_steps=12 leaves none of steps=12: give less",
        ),
        (
            "compute={compile: true, quantization: nf4}",
            "compute.compile=true cannot compile compute.quantization=nf4: leave one",
        ),
        ("steps", "--set 'steps': wanted key=value"),
        ("sampler={", "--set 'sampler={': not valid YAML: "),
        ("sampler={steps: 3, steps: 4}", "--set 'sampler={steps: 3, steps: 4}': line 1: steps is given twice"),
        ("rewards=" + "[" * 5000, f"--set 'rewards={71 * '['}... (5010 characters): nested too deeply"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(None, [override])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("setting", ["evaluation.sampler.base_steps=1", "base_penalty=0.1", "compute.quantization=nf4"])
def test_what_needs_the_base_beside_the_tuned_weights_is_refused_for_all_weights(setting: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(setting)} .*: give weights=lora"):
        load_config(None, ["weights=full", setting])


def test_moments_in_eight_bits_are_not_shared_out() -> None:
    with pytest.raises(
        UserError, match=r"^optimizer\.eight_bit=true cannot be shared out by processes=2, as weights=full"
    ):
        load_config(None, ["weights=full", "optimizer.eight_bit=true", "processes=2"])


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", r"holds \['a list'\], wanted keys with values"),
        ("steps: [", "not valid YAML: "),
        ("\xff\xfe", "not valid YAML: "),
        ("steps: 3\nsteps: 4", "line 2: steps is given twice"),
        ("sampler:\n  steps: 20\n  steps: 20", "line 3: steps is given twice"),
        ("[a]: 1", "line 1: a key must be a text"),
        ("steps: !!python/name:os.system 3", "line 1: the tag tag:yaml.org,2002:python/name:os.system means nothing"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 1: an anchor cannot be used again"),
        ("a: " + 100_000 * "[", "nested too deeply"),
        ("\n".join(f"{level * ' '}a:" for level in range(1000)), "nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=rf"run\.yaml: {message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("sampler.negative_prompt", "blurry # bad", "blurry # bad"),
        ("sampler.negative_prompt", "no", "no"),
        ("sampler.negative_prompt", "", ""),
        ("sampler.negative_prompt", " {a: 1} ", " {a: 1} "),
        ("base_revision", "1234567", "1234567"),
        ("base_revision", "null", None),
        ("wandb_project", "~", "~"),
        ("steps", "010", 10),
        ("steps", "1_000", 1000),
        ("optimizer.learning_rate", "1e-1", 0.1),
        ("optimizer.learning_rate", "1_0.5", 10.5),
        ("compute.compile", "true", True),
        ("compute.compile", "False", False),
        ("height", "null", None),
        ("rewards.symmetry.weight", "1e-1", 0.1),
        ("rewards.my.py:fn.hinge", "0.3", 0.3),
        ("rewards../of.mine/my.py:fn.weight", "2", 2.0),
    ],
)
def test_a_value_is_read_by_its_field(key: str, text: str, value: object) -> None:
    config = load_config(None, ["base_model=some/base", f"{key}={text}"]).model_dump()
    if key.startswith("rewards."):
        name, field = key.removeprefix("rewards.").rsplit(".", 1)
        assert config["rewards"] == {name: RewardTerm().model_dump() | {field: value}}
    else:
        *parents, last = key.split(".")
        for parent in parents:
            config = config[parent]
        assert (config[last], type(config[last])) == (value, type(value))


def test_a_scalar_in_a_file_is_read_by_its_field_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "base_model: 2024\nbase_revision: 010\nwandb_project:\nheight: ~\nsteps: 010\ncompute: {compile: true}\n"
        "sampler: {negative_prompt: no, guidance_scale: 1e1}\nlora: {targets: [to_q, 1, null]}\n"
        "rewards: {my.py:fn: 1e-1, hps: {praise: 'null', blame: yes}}\n"
    )
    config = load_config(path)
    assert (config.base_model, config.base_revision, config.wandb_project) == ("2024", "010", None)
    assert (config.height, config.steps, config.compute.compile) == (None, 10, True)
    assert (config.sampler.negative_prompt, config.sampler.guidance_scale) == ("no", 10.0)
    assert config.lora.targets == ("to_q", "1", "null")
    assert config.rewards == {"my.py:fn": RewardTerm(weight=0.1), "hps": RewardTerm(praise="null", blame="yes")}


def test_a_change_of_one_setting_leaves_the_defaults_beside_it() -> None:
    assert differences(load_config(None, ["evaluation.sampler.steps=5"]), Config()) == [
        "evaluation.sampler.steps (5 here, 12 there)"
    ]


def test_what_a_file_gives_in_short_can_be_bent(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rewards: {my.py:fn: 0.5}\nheld_out: null\n")
    config = load_config(path, ["rewards.my.py:fn.hinge=0.3", "held_out.reward=hps", "held_out.max_drop=0.1"])
    assert config.rewards == {"my.py:fn": RewardTerm(weight=0.5, hinge=0.3)}
    assert config.held_out == HeldOut(reward="hps", max_drop=0.1)


@given(st.text())
def test_any_text_given_to_a_text_field_comes_back(text: str) -> None:
    assert load_config(None, [f"sampler.negative_prompt={text}"]).sampler.negative_prompt == text


@given(st.integers(0, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_the_repr_of_any_number_comes_back(seed: int, weight: float) -> None:
    config = load_config(None, [f"seed={seed!r}", f"rewards.symmetry={weight!r}"])
    assert (config.seed, config.rewards["symmetry"].weight) == (seed, weight)


TEXTS = st.text() | st.sampled_from(["null", "~", "", "no", "010", "1:30", "1e-1", "<<", "*a", "# x", "a: b"])


@given(
    st.builds(
        dict,
        steps=st.integers(1, 10**6),
        seed=st.integers(0, 2**40),
        ema_decay=st.floats(0, 0.9999),
        base_model=st.text(max_size=40).filter(lambda name: name != "miniature"),
        base_revision=st.none() | TEXTS,
        wandb_project=st.none() | TEXTS,
        sampler=st.builds(dict, negative_prompt=TEXTS),
        rewards=st.dictionaries(
            st.sampled_from(["hps", "preference", "my.py:fn", "? #.py:fn", "1.py:f"]),
            st.builds(dict, weight=st.floats(allow_nan=False, allow_infinity=False), praise=TEXTS, blame=TEXTS),
            min_size=1,
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


def as_typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse(values: dict[str, object]) -> tuple[Config | None, str]:
    try:
        return load_config(None, [f"{key}={as_typed(value)}" for key, value in values.items()]), ""
    except UserError as error:
        return None, str(error)


def test_every_setting_is_listed_with_its_meaning_and_the_default_that_can_be_given_for_it() -> None:
    listed = listing.settings()
    assert {one.key for one in listed} >= {key for key in keys() if key != "held_out" and "symmetry" not in key}
    assert all(one.meaning and one.type for one in listed)
    for one in listed:
        if "<name>" not in one.key and not one.key.startswith("held_out."):
            assert load_config(None, [f"{one.key}={one.default}"]) == Config(), one.key


def test_a_setting_is_found_by_a_word() -> None:
    [eta] = listing.settings("Sampler.ETA")
    assert (eta.key, eta.type, eta.default) == ("sampler.eta", "number, at least 0, at most 1", "0.0")
    assert [one.default for one in listing.settings("guidance_scale")] == ["1.0", "3.0"]
    [rank] = listing.settings("lora.rank")
    assert rank.type == "whole number, at least 1"
    assert listing.settings("frob") == []


def test_differences_name_both_values() -> None:
    other = load_config(None, ["optimizer.learning_rate=1e-3", "steps=9"])
    assert differences(Config(), other) == [
        "optimizer.learning_rate (0.0002 here, 0.001 there)",
        "steps (80 here, 9 there)",
    ]

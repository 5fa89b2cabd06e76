"""Prompts, configuration and policy that are given on S3, or as their text in a parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checks import check_parameters
from components.prepare_prompts.run import prepare_prompts, tell_prospects
from components.train.spec import load_spec
from drtune.config import load_config
from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.publishing.policy import Policy
from tests.s3 import S3Server
from tests.stores import store_on

CONFIG = "steps: 7\nbatch_size: 2\n"
POLICY = "{min_prompts: 8, against: {base: {symmetry: {min_gain: 0.5}}}}"
NO_SYMMETRY = "rewards: {brightness: 1}\nevaluation: {rewards: [preference]}\n"
LINES = "".join(f"a red {shape}, number {number}\n" for shape in ("circle", "square") for number in range(20))
GIVEN = {"overrides": [], "cluster_overrides": [], "references": [], "name": "a-name"}


def test_settings_are_read_from_text() -> None:
    assert load_config(CONFIG, ["batch_size=4"]).steps == 7
    assert Policy.read(POLICY).min_prompts == 8
    assert load_spec("nodes: 3\nstorage: s3://runs\n").nodes == 3


def test_a_mistake_in_a_text_is_told_with_its_beginning() -> None:
    with pytest.raises(UserError, match=r"^config given as text \('steps: 7'\.\.\.\): line 2: steps is given twice"):
        load_config("steps: 7\nsteps: 8\n")
    with pytest.raises(
        UserError, match=r"^policy given as text \('\{min_promptz: 8\}'\.\.\.\): .*min_promptz: no such key"
    ):
        Policy.read("{min_promptz: 8}")


def test_text_is_checked_where_a_run_is_submitted_and_s3_is_left_to_the_run() -> None:
    with pytest.raises(UserError, match=r"policy: against\.base\.symmetry is"):
        check_parameters(GIVEN | {"config": NO_SYMMETRY, "policy": POLICY}, elsewhere=True)
    there = GIVEN | {"config": "s3://settings/mine.yaml", "policy": POLICY}
    assert check_parameters(there, elsewhere=True, environment={}) == [
        "s3://settings/mine.yaml is not here: the run itself checks it"
    ]


def test_lines_of_prompts_become_a_prompt_set_that_names_their_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare_prompts(LINES, "", tmp_path / "set")
    assert (made.num_train + made.num_eval, made.source.sha256) == (40, sha256_bytes(LINES.encode()))
    tell_prospects(made, POLICY.replace("8", "64", 1), CONFIG)
    assert "policy given as text" in capsys.readouterr().out
    with pytest.raises(UserError, match="data_revision='v1': given as text"):
        prepare_prompts(LINES, "v1", tmp_path / "other")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method={{name: srpo, pictures: {}/none}}", "method.pictures={}/none: nothing is stored there"),
        ("method={{name: srpo, pictures: {}/none.zip}}", "method.pictures={}/none.zip: nothing is stored there"),
        ("lora.init={}/none.safetensors", "lora.init={}/none.safetensors: is not there; correct the place"),
        ("evaluation.capability.file={}/none.jsonl", "evaluation.capability.file={}/none.jsonl: cannot be read"),
    ],
)
def test_what_settings_name_on_s3_is_asked_for_in_the_first_step_of_a_run(
    override: str, message: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = store_on(s3_server)
    store.write("none.zip.part", b"")  # whose name begins alike
    given = GIVEN | {"config": CONFIG, "overrides": [override.format(store.uri)]}
    [told] = check_parameters(given, elsewhere=True, environment={})
    assert told.endswith(" is not here: the run itself checks it")
    with pytest.raises(UserError) as refused:
        check_parameters(given, elsewhere=True, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert str(refused.value).startswith(message.format(store.uri))


def test_files_on_s3_are_read(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = store_on(s3_server)
    for key, text in {"config.yaml": CONFIG, "gate.yaml": POLICY, "of/mine.txt": LINES}.items():
        store.write(key, text.encode())
    assert load_config(f"{store.uri}/config.yaml").steps == 7
    assert Policy.read(f"{store.uri}/gate.yaml").min_prompts == 8
    made = prepare_prompts(f"{store.uri}/of/mine.txt", "", tmp_path / "set")
    assert (made.source.path, made.source.sha256) == (f"{store.uri}/of/mine.txt", sha256_bytes(LINES.encode()))
    there = GIVEN | {"config": f"{store.uri}/config.yaml", "policy": f"{store.uri}/none.yaml"}
    with pytest.raises(UserError, match=r"policy s3://.*/none.yaml: cannot be read \(not there\)"):
        check_parameters(there, elsewhere=False)
    with pytest.raises(UserError, match=r"prompts s3://.*/none.txt: not there"):
        prepare_prompts(f"{store.uri}/none.txt", "", tmp_path / "set")

"""The first step: which version of the data is taken, and how a changed file is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kfp import dsl

from components.prepare_prompts.run import prepare_prompts, refuse_absent, tell_prospects
from drtune.contracts import DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.local import sha256_file
from drtune.prompts.prepare import Prompt, open_prompts, split_of
from tests.first_step import run_first_step

FIRST = '{"text": "a cat", "split": "train"}\n{"text": "a dog", "split": "eval"}\n'
SECOND = FIRST + '{"text": "a fox", "split": "train"}\n'


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path, message: str) -> str:
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--message", message)
    return run(folder, "git", "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose data has two versions, tagged first and second; the second is checked out.

    DVC tracks the folders data/ and more/data/, and the file more/own.jsonl by itself.
    """
    repository = tmp_path_factory.mktemp("two_versions")
    run(repository, "git", "init")
    dvc(repository, "init")
    dvc(repository, "remote", "add", "--default", "store", "store")
    for tag, text in {"first": FIRST, "second": SECOND}.items():
        for folder in ("data/sub", "more/data"):
            (repository / folder).mkdir(exist_ok=True, parents=True)
        for name in ("data/prompts.jsonl", "data/sub/prompts.jsonl", "more/data/prompts.jsonl", "more/own.jsonl"):
            (repository / name).write_text(text)
        dvc(repository, "add", "data", "more/data", "more/own.jsonl")
        dvc(repository, "push")  # into the commit, as the repository holds its own data
        commit(repository, tag)
        run(repository, "git", "tag", tag)
    return repository


@pytest.fixture
def repository(two_versions: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_versions, tmp_path / "repository")


def test_a_plain_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text(FIRST)
    prepared = prepare_prompts(str(source), "", tmp_path / "out")
    assert prepared == PromptSet.load(tmp_path / "out")
    assert prepared.source == DataSource(path=str(source), sha256=sha256_file(source))


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.jsonl").write_text(FIRST)
    monkeypatch.chdir(tmp_path)
    assert prepare_prompts("prompts.jsonl", "", tmp_path / "out").source.path == "prompts.jsonl"


def test_a_plain_file_has_no_revision(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text(FIRST)
    with pytest.raises(UserError, match=r"data_revision='v1': .* is not under DVC; leave it empty"):
        prepare_prompts(str(source), "v1", tmp_path / "out")


def test_the_step_states_commit_and_md5_of_what_is_checked_out(repository: Path, tmp_path: Path) -> None:
    prepared = prepare_prompts(str(repository / "data/prompts.jsonl"), "", tmp_path / "out")
    assert prepared.num_train == 2
    assert prepared.source.path == "data/prompts.jsonl"
    assert prepared.source.git_revision == run(repository, "git", "rev-parse", "second")
    assert f"md5: {prepared.source.dvc_md5}\n" in (repository / "data.dvc").read_text()


@pytest.mark.parametrize(("name", "out"), [("data/prompts.jsonl", "data"), ("more/own.jsonl", "more/own.jsonl")])
def test_an_edited_file_is_refused_and_left_alone(repository: Path, tmp_path: Path, name: str, out: str) -> None:
    edited = repository / name
    edited.write_text("mine")
    with pytest.raises(UserError, match=f"{name}: not the version that {out}.dvc states") as raised:
        prepare_prompts(str(edited), "", tmp_path / "out")
    assert f"`dvc add {out}` to keep that or `dvc pull --force {out}.dvc` to undo it" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert edited.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_added_but_not_committed_has_no_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "data/prompts.jsonl").write_text(SECOND + '"a hen"\n')
    dvc(repository, "add", "data")
    prepared = prepare_prompts(str(repository / "data/prompts.jsonl"), "", tmp_path / "out")
    assert prepared.source.git_revision is None
    assert f"md5: {prepared.source.dvc_md5}\n" in (repository / "data.dvc").read_text()


def test_a_file_that_is_not_in_the_stated_version_is_refused(repository: Path, tmp_path: Path) -> None:
    extra = repository / "data/extra.txt"
    extra.write_text("a hen\n")
    with pytest.raises(UserError, match=r"data/extra\.txt: not in the version that data\.dvc states; add it with"):
        prepare_prompts(str(extra), "", tmp_path / "out")
    with pytest.raises(UserError, match=r"data/absent\.txt: not found in what data\.dvc states"):
        prepare_prompts(str(repository / "data/absent.txt"), "", tmp_path / "out")


def test_missing_files_are_pulled(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / "data")
    shutil.rmtree(repository / ".dvc/cache")
    assert prepare_prompts(str(repository / "data/prompts.jsonl"), "", tmp_path / "out").num_train == 2


def test_files_of_another_version_are_replaced(repository: Path, tmp_path: Path) -> None:
    run(repository, "git", "checkout", "first")
    assert prepare_prompts(str(repository / "data/prompts.jsonl"), "", tmp_path / "out").num_train == 1
    assert (repository / "data/prompts.jsonl").read_text() == FIRST


def test_a_revision_is_taken_without_touching_the_working_tree(repository: Path, tmp_path: Path) -> None:
    edited = repository / "data/prompts.jsonl"
    edited.write_text("mine")
    status = run(repository, "git", "status", "--porcelain")
    prepared = prepare_prompts(str(edited), "first", tmp_path / "out")
    assert prepared.source.git_revision == run(repository, "git", "rev-parse", "first")
    assert f"md5: {prepared.source.dvc_md5}\n" in run(repository, "git", "show", "first:data.dvc") + "\n"
    assert open_prompts(tmp_path / "out").train == (Prompt("a cat", ""),)
    assert edited.read_text() == "mine"
    assert run(repository, "git", "status", "--porcelain") == status


@pytest.mark.parametrize("name", ["more/data/prompts.jsonl", "more/own.jsonl"])
def test_a_file_by_itself_or_deeper_down_is_taken_at_any_version(repository: Path, tmp_path: Path, name: str) -> None:
    now = prepare_prompts(str(repository / name), "", tmp_path / "now")
    then = prepare_prompts(str(repository / name), "first", tmp_path / "then")
    assert (now.num_train, then.num_train) == (2, 1)
    assert (now.source.path, then.source.path) == (name, name)
    assert [then.source.git_revision, now.source.git_revision] == [
        run(repository, "git", "rev-parse", tag) for tag in ("first", "second")
    ]
    pointer = "more/data.dvc" if "data" in name else "more/own.jsonl.dvc"
    assert f"md5: {now.source.dvc_md5}\n" in (repository / pointer).read_text()
    assert f"md5: {then.source.dvc_md5}\n" in run(repository, "git", "show", f"first:{pointer}") + "\n"


@pytest.mark.parametrize(("name", "data_revision"), [("data", ""), ("data/sub", ""), ("data/sub", "first")])
def test_a_folder_under_dvc_is_refused(repository: Path, tmp_path: Path, name: str, data_revision: str) -> None:
    with pytest.raises(UserError, match=f"prompts {name}: is a folder; give the path of a file in it"):
        prepare_prompts(str(repository / name), data_revision, tmp_path / "out")


def test_a_link_to_the_file_or_one_that_dvc_put_in_its_place_is_still_under_dvc(
    repository: Path, tmp_path: Path
) -> None:
    own = repository / "more/own.jsonl"
    (tmp_path / "mine.jsonl").symlink_to(own)
    linked = prepare_prompts(str(tmp_path / "mine.jsonl"), "", tmp_path / "linked")
    dvc(repository, "config", "cache.type", "symlink")
    dvc(repository, "checkout", "--relink", "more/own.jsonl.dvc")
    assert own.is_symlink()
    assert prepare_prompts(str(own), "", tmp_path / "out").source == linked.source
    assert (linked.source.path, linked.source.dvc_md5 is not None) == ("more/own.jsonl", True)


def test_a_remote_with_versions_states_the_md5_of_each_file(tmp_path: Path) -> None:
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prompts.jsonl").write_text(FIRST)
    md5 = hashlib.md5(FIRST.encode()).hexdigest()
    # As `dvc push` of 3.67 leaves it with `version_aware = true`.
    (tmp_path / "data.dvc").write_text(
        f"outs:\n- hash: md5\n  path: data\n  files:\n  - relpath: prompts.jsonl\n    md5: {md5}\n    size: 71\n"
        f"    cloud:\n      store:\n        etag: {md5}\n        version_id: 6713a778ed66009227b4c6eaabe4e11a\n"
    )
    assert prepare_prompts(str(tmp_path / "data/prompts.jsonl"), "", tmp_path / "out").source.dvc_md5 == md5
    (tmp_path / "data/prompts.jsonl").write_text(SECOND)
    with pytest.raises(UserError, match=r"data/prompts\.jsonl: not the version that data\.dvc states"):
        prepare_prompts(str(tmp_path / "data/prompts.jsonl"), "", tmp_path / "out")


def test_what_came_in_is_added_once_and_on_the_side_of_its_other_spellings(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/monday.txt").write_text("A CAT\n\nA dog!\n")
    (tmp_path / "in/tuesday.csv").write_text("prompt,style,split\na new owl,x,ours\na cat.,y,\na dog!,z,\n")
    (tmp_path / "in/notes.md").write_text("no prompts")
    prepared = prepare_prompts(str(repository / "data/prompts.jsonl"), "", tmp_path / "out", str(tmp_path / "in"))
    rows = [json.loads(line) for line in (tmp_path / "out/prompts.jsonl").read_text().splitlines()]
    assert [(row["text"], row["category"], row["split"]) for row in rows] == [
        ("a cat", "", "train"),
        ("a dog", "", "eval"),
        ("a fox", "", "train"),
        ("A dog!", "", "eval"),
        ("a new owl", "x", split_of("a new owl")),
        ("a cat.", "y", "train"),
    ]
    assert prepared.problems == {"duplicate": 2, "empty": 1, "not a prompts file": 1}
    problems = [json.loads(line)["where"] for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert problems == ["notes.md", "monday.txt: line 2", "tuesday.csv", str(tmp_path / "in")]
    assert prepared.source.path == "data/prompts.jsonl"
    assert prepared.added is not None
    assert prepared.added.path == str(tmp_path / "in")
    assert prepared.near_duplicates == 0


def test_a_prompt_set_stays_on_its_sides_with_what_came_in(tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text("prompt,style,split\na cat,x,eval\na dog,,train\nan owl,,train\n")
    first = prepare_prompts(str(tmp_path / "ours.csv"), "", tmp_path / "set")
    (tmp_path / "in.txt").write_text("A cat!\na dog\n")
    made = prepare_prompts((tmp_path / "set").as_uri(), "", tmp_path / "out", str(tmp_path / "in.txt"))
    rows = [json.loads(line) for line in (tmp_path / "out/prompts.jsonl").read_text().splitlines()]
    assert [(row["text"], row["category"], row["split"]) for row in rows] == [
        ("a dog", "", "train"),
        ("an owl", "", "train"),
        ("a cat", "x", "eval"),
        ("A cat!", "", "eval"),
    ]
    assert (made.source.path, made.source.sha256) == (str(tmp_path / "set"), first.sha256)
    assert made.problems == {"duplicate": 1}


def test_all_files_of_a_folder_are_taken(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/monday.txt").write_text("a cat\n\na dog\n")
    (tmp_path / "in/tuesday.csv").write_text("prompt,split\na fox,eval\n")
    made = prepare_prompts(str(tmp_path / "in"), "", tmp_path / "out")
    assert (made.num_train + made.num_eval, made.problems) == (3, {"empty": 1})


@pytest.mark.parametrize("revision", ["nonsense", "--help"])
def test_an_unknown_revision_is_refused(repository: Path, tmp_path: Path, revision: str) -> None:
    with pytest.raises(UserError, match=f"data_revision='{revision}': no commit, branch or tag with a data.dvc"):
        prepare_prompts(str(repository / "data/prompts.jsonl"), revision, tmp_path / "out")


def test_the_component_shows_the_counts(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text(SECOND)
    artifact = dsl.Dataset(name="prompt_set", uri=str(tmp_path / "out"))
    run_first_step(str(source), tmp_path / "registry", artifact)
    assert artifact.metadata == PromptSet.load(tmp_path / "out").model_dump(exclude_none=True) | {
        "source": PromptSet.load(tmp_path / "out").source.model_dump()
    }
    assert (artifact.metadata["num_train"], artifact.metadata["num_eval"]) == (2, 1)


@pytest.mark.parametrize("data_revision", ["HEAD", "first", ""])
def test_a_repository_that_cannot_be_written_to_is_read_through_a_clone(
    repository: Path, tmp_path: Path, data_revision: str
) -> None:
    expected = run(repository, "git", "rev-parse", data_revision or "HEAD")
    shutil.rmtree(repository / "data")
    repository.chmod(0o555)
    try:
        if os.access(repository, os.W_OK):
            pytest.skip("needs a user who may not write everywhere")
        prepared = prepare_prompts(str(repository / "data/prompts.jsonl"), data_revision, tmp_path / "out")
    finally:
        repository.chmod(0o755)
    assert (prepared.source.path, prepared.source.git_revision) == ("data/prompts.jsonl", expected)
    assert not (repository / "data").exists()


def test_too_few_held_out_prompts_for_the_policy_are_told_at_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text(FIRST)
    prepared = prepare_prompts(str(tmp_path / "prompts.jsonl"), "", tmp_path / "out")
    gate = tmp_path / "gate.yaml"
    gate.write_text("min_prompts: 64\nagainst: {base: {symmetry: {min_gain: 0}}}\n")
    capsys.readouterr()
    tell_prospects(prepared, str(gate))
    assert capsys.readouterr().out == f"1 held out, policy {gate} wants 64: what this run makes cannot be published\n"
    tell_prospects(prepared.model_copy(update={"num_eval": 64}), str(gate))
    tell_prospects(prepared, "")
    tell_prospects(prepared.model_copy(update={"num_eval": 64}), str(gate), "in/another/image.yaml")
    assert capsys.readouterr().out == ""
    (tmp_path / "config.yaml").write_text("evaluation: {max_prompts: 64}\n")
    many = (prepared.model_copy(update={"num_eval": 99}), str(gate), str(tmp_path / "config.yaml"))
    tell_prospects(*many)
    tell_prospects(*many, ["evaluation.max_prompts=63"])
    told = f"99 held out, evaluation.max_prompts=63, policy {gate} wants 64: what this run makes cannot be published\n"
    assert capsys.readouterr().out == told


def test_prompts_may_be_given_by_their_address(tmp_path: Path) -> None:
    (tmp_path / "of mine.txt").write_text("a red circle\n", encoding="utf-8")
    refuse_absent(f"{tmp_path.as_uri()}/of%20mine.txt")
    with pytest.raises(UserError, match=r"prompts file://.*/none\.txt: not there"):
        refuse_absent(f"{tmp_path.as_uri()}/none.txt")

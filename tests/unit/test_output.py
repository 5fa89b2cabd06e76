"""An output is written by one run at a time, never over what it is made from, and never over what is not ours."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drtune.contracts import Contract
from drtune.errors import UserError
from drtune.files.output import KINDS, LONGEST_NAME, MARK, claimed, id_of, kind_of, locked, mark, unless_begun
from drtune.models.sample_set import SampleSet


def claim(path: Path | str, kind: str | None = "TunedModel", **how: Any) -> Path:
    with claimed(path, kind, **how) as place:
        return place


def ours(folder: Path, kind: str = "TunedModel") -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": f"{kind}/1", "step": 3}))
    return folder


def test_what_stands_there_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert claim(taken) == taken  # an empty folder is as good as none
    (taken / "holiday.jpg").touch()
    with pytest.raises(UserError, match="exists already; give --overwrite"):
        claim(taken)
    with pytest.raises(UserError, match="files that drtune did not write"):
        claim(taken, overwrite=True)
    (taken / "manifest.json").write_text('{\n  "kind": "TunedModel/1"\n}')
    assert claim(taken, overwrite=True) == taken
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]  # no lock is left


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", '{"name": "a web page"}'),
        ("manifest.json", '{"apiVersion": "apps/v1", "kind": "Deployment"}'),
        ("manifest.json", '{"kind": "Deployment/1"}'),
        ("manifest.json", '[{"kind": "TunedModel/1"}]'),
        ("manifest.json", 'no JSON: "kind": "TunedModel/1"'),
        ("config.yaml", "base_model: NousResearch/Llama-3.2-1B\n"),
        ("pipeline.log", "12:00 somebody else's pipeline\n"),
        (MARK, '{"theme": "dark"}'),
    ],
)
def test_folders_of_others_are_never_ours(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text(content)
    assert kind_of(tmp_path / "theirs") is None
    with pytest.raises(UserError, match="files that drtune did not write"):
        claim(tmp_path / "theirs", overwrite=True)


def test_an_output_replaces_its_own_kind_alone(tmp_path: Path) -> None:
    model = ours(tmp_path / "model")
    with pytest.raises(UserError, match="holds a TunedModel, and no Decision; give another place"):
        claim(model, "Decision", overwrite=True)
    mark(model, "TrainingRun")  # a finished run is more than its model
    with pytest.raises(UserError, match="holds a TrainingRun, and no TunedModel"):
        claim(model, "TunedModel", overwrite=True)
    known = id_of(model)
    mark(model, "TrainingRun")
    assert re.fullmatch("[0-9a-f]{32}", known or "")
    assert id_of(model) == known


def descendants(kind: type[Contract]) -> list[type[Contract]]:
    return [one for child in kind.__subclasses__() for one in (child, *descendants(child))]


def test_every_manifest_of_a_folder_is_of_a_kind_that_is_known() -> None:
    known = (SampleSet, *descendants(Contract))
    fields = [each.model_fields["kind"] for each in known if "kind" in each.model_fields]
    kinds = {match[1] for field in fields if (match := re.fullmatch(r"(\w+)/\d+", str(field.default)))}
    assert kinds | {"MergedPipeline", "PipelineRun", "Sweep", "TrainingRun"} == KINDS


@pytest.mark.parametrize(
    ("out", "given", "why"),
    [
        ("demo", "demo", "is what it would be made from"),
        ("demo", "demo/r1", "holds .*demo/r1, which it would be made from"),
        ("demo/r1/study", "demo/r1", "lies in .*demo/r1, which it would be made from"),
        ("link", "demo", "is what it would be made from"),
        ("demo", "link/r1", "holds .*link/r1"),
        ("link/r1/x", "demo/r1", "lies in"),
        ("demo/../demo", "demo", "is what it would be made from"),
        ("demo", "file://{}/demo/r1", "holds file://"),
    ],
)
def test_nothing_is_written_over_into_or_around_what_it_is_made_from(
    out: str, given: str, why: str, tmp_path: Path
) -> None:
    ours(tmp_path / "demo")
    ours(tmp_path / "demo" / "r1", "EvaluationReport")
    (tmp_path / "link").symlink_to("demo")
    source = given.format(tmp_path) if given.startswith("file") else tmp_path / given
    with pytest.raises(UserError, match=why):
        claim(tmp_path / out, overwrite=True, inputs=[None, "s3://bucket/demo", source])
    assert (tmp_path / "demo" / "r1" / "manifest.json").exists()


def test_what_lies_beside_an_input_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert claim("demo/run", inputs=[""]) == Path("demo/run")  # an input that was not given is not the folder here
    ours(tmp_path / "demo" / "r1")
    assert claim(tmp_path / "demo" / "r10", inputs=[tmp_path / "demo" / "r1"]) == tmp_path / "demo" / "r10"


def test_a_place_is_resolved_and_a_plain_one_stays_as_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours(tmp_path / "m1")
    (tmp_path / "link").symlink_to("m1")
    (tmp_path / "dangling").symlink_to("elsewhere")
    assert claim("runs/x") == Path("runs/x")
    assert claim("m1/../m1", overwrite=True) == Path("m1")
    assert claim("link", overwrite=True) == tmp_path / "m1"
    assert claim("dangling") == tmp_path / "elsewhere"
    with pytest.raises(UserError, match="exists already"):
        claim("nowhere/../m1")


@pytest.mark.parametrize("out", ["s3://bucket/report", "file:///tmp/report", Path("s3://bucket/report")])
def test_an_address_is_no_output(out: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is an address; give the path of a file or folder on this machine"):
        claim(out)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_device_is_refused_before_anything_is_written_beside_that(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    os.mkfifo(tmp_path / "devices" / "pipe")
    (tmp_path / "link").symlink_to("devices/pipe")
    (tmp_path / "devices").chmod(0o500)
    before = (tmp_path / "devices").stat().st_mtime_ns
    with pytest.raises(UserError, match="is no file and no folder, which is never replaced"):
        claim(tmp_path / "link", overwrite=True)
    assert (tmp_path / "devices").stat().st_mtime_ns == before


def test_a_file_and_a_folder_never_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, and what is to be written is a folder"):
        claim(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="is a folder, and what is to be written is a file"):
        claim(ours(tmp_path / "model"), None, overwrite=True)
    assert claim(tmp_path / "file", None, overwrite=True) == tmp_path / "file"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * (LONGEST_NAME + 1), "has a name of 221 bytes; give one of at most 220"),
        ("ü" * 200, "has a name of 400 bytes"),
        ("a\0b", "no file can have such a name everywhere"),
        ("a\udce4b", "no file can have such a name everywhere"),
        ("a/" * 3000 + "b", r"cannot be written \(File name too long\)"),
        ("file/below", r"cannot be written \(File exists\)"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_a_line(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=why) as refusal:
        claim(f"{tmp_path}/{name}")
    str(refusal.value).encode()
    assert "\n" not in str(refusal.value)
    assert claim(tmp_path / ("x" * LONGEST_NAME)).name == "x" * LONGEST_NAME


def test_a_second_run_is_told_who_writes_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "link").symlink_to("out")
    with claimed(out, "TunedModel"):
        for same in (out, tmp_path / "link"):
            with pytest.raises(UserError, match=rf"out: is being written by process {os.getpid()} on .* since 20"):
                claim(same)
        claim(tmp_path / "out2")
    claim(out)


HOLDING = """
import os, signal, sys
from drtune.files.output import claimed
with claimed(sys.argv[1], "TunedModel"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", HOLDING, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    claim(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_locks_is_told_once_and_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_file: object, _operation: int) -> None:  # as flock(2) of a file system that has none
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    for _ in range(2):
        with locked(tmp_path / "out", refuse), locked(tmp_path / "out2", refuse):
            pass
    assert capsys.readouterr().err == (
        f"{tmp_path}: has no locks (Operation not supported); see to it that no two runs write to one place\n"
    )


@pytest.mark.parametrize("stood", [False, True])
@pytest.mark.parametrize("begins", [False, True])
def test_what_is_written_beside_an_output_is_undone_unless_a_new_one_begins(
    stood: bool, begins: bool, tmp_path: Path
) -> None:
    out, prompts, text = tmp_path / "out", tmp_path / "out.prompts", tmp_path / "out.prompts.txt"
    if stood:
        for folder in (out, prompts):
            folder.mkdir()
        mark(out, "TrainingRun")
        (prompts / "prompts.jsonl").write_text("old")
        text.write_text("old")

    def fail() -> None:
        prompts.mkdir(exist_ok=True)
        (prompts / "prompts.jsonl").write_text("new")
        text.write_text("new")
        if begins:
            out.mkdir(exist_ok=True)
            (out / MARK).unlink(missing_ok=True)
            mark(out, "TrainingRun")
        raise SystemExit(1)

    with pytest.raises(SystemExit), unless_begun(out, prompts, text):
        fail()
    there = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name != MARK}
    kept = "new" if begins else "old"
    assert there == ({"prompts.jsonl": kept, "out.prompts.txt": kept} if stood or begins else {})
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["out", "out.prompts", "out.prompts.txt"] if stood or begins else []
    )


def test_a_folder_behind_a_link_is_as_it_was_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "prompts.jsonl").write_text("old")
    (tmp_path / "out.prompts").symlink_to("elsewhere")

    def fail() -> None:
        (tmp_path / "out.prompts" / "prompts.jsonl").write_text("new")
        raise UserError("why")

    with pytest.raises(UserError, match="why"), unless_begun(tmp_path / "out", tmp_path / "out.prompts"):
        fail()
    assert (tmp_path / "out.prompts" / "prompts.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out.prompts"]

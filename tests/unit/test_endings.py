"""What steps write of their ending is what is read from their logs: the real steps, and logs as pods leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from components.decide.run import decide_report
from components.endings import by_address, ending_in, reason_in
from components.monitor.run import monitor
from components.publish.run import run as publish
from drtune.contracts import CONFIG
from drtune.publishing.registry import Registry
from tests.folders import make_folders
from tests.reports import report_of, score

FAILED_LOG = """[KFP Executor 2026-11-28 18:08:43,904 INFO]: Looking for component
Traceback (most recent call last):
  File "/opt/drtune/lib/python3.11/site-packages/kfp/dsl/executor_main.py", line 109, in executor_main
    output_file = executor.execute()
drtune.errors.UserError: prompts s3://traffic/nothing.jsonl: not there; give the path of a file
I1128 18:08:44.180012      19 launcher_v2.go:250] publish success.
F1128 18:08:44.180312      19 main.go:59] failed to execute component: exit status 1
"""


def test_what_publish_writes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, report, decision = map(str, make_folders(tmp_path / "made"))
    publish(model, report, decision, str(tmp_path / "registry"), "mine", "", str(tmp_path / "entry"))
    uri = Registry(str(tmp_path / "registry")).show("mine").uri
    assert ending_in(capsys.readouterr().out) == f"published as mine v1 at {uri}"


@pytest.mark.parametrize(
    ("min_prompts", "min_gain", "ending"),
    [
        (64, 0.1, None),
        (
            200,
            0.5,
            "refused: 192 prompts, at least 200 wanted; symmetry against base: 100 common prompts, at least 200 wanted",
        ),
        (
            64,
            0.5,
            "refused: symmetry against base: gain 0.2700 (95 % interval 0.2500 to 0.2900), "
            "at least 0.5 wanted at its low end",
        ),
    ],
)
def test_what_decide_writes_is_read(
    min_prompts: int, min_gain: float, ending: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "report").mkdir()
    report_of(score("symmetry", gain=0.27, margin=0.02), num_prompts=192).save(folder)
    (folder / "scores.parquet").write_bytes(b"scores")
    shutil.copy(Path("configs/miniature.yaml"), folder / CONFIG)
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{{min_prompts: {min_prompts}, against: {{base: {{symmetry: {{min_gain: {min_gain}}}}}}}}}")
    kinds = {"decision": dsl.Artifact, "page": dsl.HTML, "summary": dsl.Markdown, "metrics": dsl.Metrics}
    outputs = [kind(name, str(tmp_path / f"{name} of the step")) for name, kind in kinds.items()]
    assert decide_report(dsl.Artifact("report", str(folder)), str(policy), *outputs) is (ending is None)  # type: ignore[arg-type]
    assert ending_in(capsys.readouterr().out) == ending


@pytest.mark.parametrize(
    ("shift", "ending"),
    [
        (0.0, "not enough data: no check of prompts could be made: 1 in the reference and 1 now, "),
        (0.5, "drifted: 1 of 1 checks drifted: reward hps ("),
    ],
)
def test_what_monitor_writes_is_read(
    shift: float, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n", encoding="utf-8")
    for name, moved in (("release.csv", 0.0), ("now.csv", shift)):
        hps = np.linspace(0, 1, 300) + moved
        pd.DataFrame({"image": "i", "prompt": "p", "category": "", "hps": hps}).to_csv(tmp_path / name, index=False)
    kinds = {"verdict": dsl.Artifact, "page": dsl.HTML, "summary": dsl.Markdown, "metrics": dsl.Metrics}
    outputs = [kind(name, str(tmp_path / name)) for name, kind in kinds.items()]
    prompts, tables = [str(tmp_path / "prompts.txt")] * 2, [str(tmp_path / "now.csv"), str(tmp_path / "release.csv")]
    monitor(*prompts, *tables, "configs/monitor.yaml", *outputs)  # type: ignore[arg-type]
    told = ending_in(capsys.readouterr().out)
    assert told is not None
    assert told.startswith(ending)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (FAILED_LOG, "prompts s3://traffic/nothing.jsonl: not there; give the path of a file"),
        (
            "Traceback (most recent call last):\n  File x\nRuntimeError: x ended with exit code 1; it wrote last:\n"
            "  step 3\n  error: reward nan\nF1128 main.go:59] failed to execute component: exit status 1\n",
            "reward nan",
        ),
        (
            "Traceback (most recent call last):\n  File x\nRuntimeError: x ended with exit code 1; it wrote last:\n"
            "  step 3\n  out of memory\nError: exit status 1\n",
            "x ended with exit code 1; it wrote last: out of memory",
        ),
        (
            "Traceback (most recent call last):\n  File x\nkubernetes.client.exceptions.ApiException: (403)\n"
            "Reason: Forbidden\nHTTP response body: no\n",
            "(403) HTTP response body: no",
        ),
        ("update 3\nerror: base_model: no such folder\n", "base_model: no such folder"),
        ("error: config: not this one\n" + FAILED_LOG + "error: config: no such file\n", "config: no such file"),
        ("update: 3\n", None),
        ("", None),
        ("Traceback (most recent call last):\n  File x\nKeyError\n", None),
    ],
)
def test_why_a_step_failed(log: str, words: str | None) -> None:
    reason = reason_in(log)
    assert (str(reason) if reason else None) == words


def test_the_mistake_of_a_user_is_told_from_a_fault() -> None:
    mistake, fault = reason_in(FAILED_LOG), reason_in(FAILED_LOG.replace("UserError", "RuntimeError"))
    assert mistake is not None
    assert fault is not None
    assert (mistake.by_user, fault.by_user) == (True, False)


@given(st.text() | st.lists(st.sampled_from(FAILED_LOG.splitlines()), max_size=6).map("\n".join))
def test_no_log_is_too_odd_to_be_read(log: str) -> None:
    reason = reason_in(log)
    assert reason is None or reason.message in log
    assert (ending_in(log) or "") in log


def test_artifacts_are_called_by_their_addresses() -> None:
    elsewhere = "neither /home/minio/x/y nor https://host/s3/b/k, /minio/ or s3://b/k"
    told = by_address(f"at /minio/mlpipeline/v2/a, --out=/s3/b/k, `/gcs/b/k`, {elsewhere}")
    assert told == f"at minio://mlpipeline/v2/a, --out=s3://b/k, `gs://b/k`, {elsewhere}"

"""A sweep here, with real runs, and on a server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.kfp_api import KfpServer
from tests.kfp_nodes import Look, executor_of
from tests.server_calls import fine, refused
from tests.server_calls import server as server

VARY = ["--vary", "optimizer.learning_rate=1e-4,1e3"]
SMALL = ["steps=2", "processes=1", "batch_size=2", "sampler.steps=6", "method.trained_steps=2"]
SMALL += ["evaluation.max_prompts=8", "evaluation.sampler.steps=2"]


@pytest.mark.slow
def test_each_run_is_a_row_also_one_that_fails_and_what_is_done_is_kept(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"a red circle, number {number}\n" for number in range(80)))
    (tmp_path / "gate.yaml").write_text("{min_prompts: 8, against: {base: {symmetry: {max_drop: 1.0}}}}")
    command = [sys.executable, "-m", "pipelines.cli.main", "sweep", *VARY, "--out", "swept", "--prompts", "prompts.txt"]
    command += ["--policy", "gate.yaml", *(f"--set={one}" for one in SMALL)]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    good, bad = pd.read_csv(tmp_path / "swept" / "sweep.csv").to_dict("records")
    assert good["outcome"] == "deserves to be published"
    assert good["symmetry_low"] <= good["symmetry_gain"] <= good["symmetry_high"]
    assert bad["outcome"].startswith("failed: step train: update 2: ")
    assert "| 1e-4 " in (tmp_path / "swept" / "sweep.md").read_text()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.stdout.count("evaluate") == 0  # it was done
    assert pd.read_csv(tmp_path / "swept" / "sweep.csv").to_dict("records")[0] == good


def test_a_sweep_on_a_server_is_a_run_for_each_and_one_table(server: KfpServer) -> None:
    done = dict.fromkeys(["prepare-prompts", "train", "decide"], "SUCCEEDED")
    server.looks = [Look("RUNNING", {"train": "RUNNING"}), Look("SUCCEEDED", done)]
    gains = "symmetry +0.2700 (+0.2500 to +0.2900)"
    server.logs[executor_of("decide")] = f"refused: too little\ngains over the base: {gains}\n"
    said = fine(server, "submit", "--wait", "--inline", "-r", "mine", *VARY, 'overrides=["steps=20"]')
    runs = list(server.runs.values())
    given = [run["runtime_config"]["parameters"] for run in runs]
    assert [one["overrides"] for one in given] == [
        ["steps=20", f"optimizer.learning_rate={rate}"] for rate in ("1e-4", "1e3")
    ]
    assert len({one["name"] for one in given}) == 2
    assert [run["display_name"] for run in runs] == [f"mine optimizer.learning_rate={rate}" for rate in ("1e-4", "1e3")]
    told = [re.sub(r"\d min", "", line) for line in said[-6:]]
    each = [f"  {gains}", "  refused: too little ()"]
    assert told == ["optimizer.learning_rate=1e-4", *each, "optimizer.learning_rate=1e3", *each]


def test_nothing_is_started_where_one_of_them_could_not_run(server: KfpServer) -> None:
    assert "stepz: no such key" in refused(server, "submit", "--inline", "--vary", "stepz=1,2")
    assert "name: the runs of a sweep would publish" in refused(server, "submit", "--inline", *VARY, "name=mine")
    assert server.runs == {}
    assert json.dumps(server.experiments) == "{}"

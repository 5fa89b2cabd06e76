"""Drift through the command that a person types: prompts in S3, tables of scores, and the report in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from drtune.contracts import DriftVerdict
from drtune.files.storage import open_storage
from tests.metadata import check_metadata
from tests.s3 import BUCKET, S3Server

ROOT = Path(__file__).parents[2]
EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
THINGS = ("cat", "dog", "house", "tree", "boat", "moon")


def prompts(template: str, category: str = "") -> str:
    """A prompts file of 252 lines."""
    texts = [template.format(one, other, number) for one in THINGS for other in THINGS for number in range(7)]
    return "".join(json.dumps({"text": text, "category": category or text[:3]}) + "\n" for text in texts)


def monitor(out: Path, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli.main", "monitor", "--out", str(out), *options]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_prompts_in_s3_that_drifted_are_told_and_run_nothing_in_the_report(s3_server: S3Server, tmp_path: Path) -> None:
    trained, out = tmp_path / "trained.jsonl", tmp_path / "run"
    trained.write_text(prompts("a {} beside a {}, view {}"), encoding="utf-8")
    uri = f"s3://{BUCKET}/{uuid4().hex}"
    storage = open_storage(uri, s3_server.environment)
    lines = prompts("portrait of {} and {} " + EVIL + " number {}", category=EVIL).splitlines(keepends=True)
    storage.write("monday/a.jsonl", "".join(lines[:100]).encode())
    storage.write("tuesday/b.jsonl", "".join(lines[90:]).encode())

    options = ["--reference", str(trained), "--incoming", uri]
    result = monitor(out, *options, environment=s3_server.environment)
    assert result.returncode == 3, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("drifted, after ")
    verdict = DriftVerdict.load(out / "verdict")
    assert verdict.retrain
    assert (verdict.incoming.count, verdict.incoming.num_files) == (252, 2)
    assert verdict.incoming.problems == {"duplicate": 10}
    assert {"characters", "new words", "embeddings"} <= {check.name for check in verdict.checks if check.drifted}
    summary = (out / "verdict/summary.md").read_text(encoding="utf-8")
    assert summary.startswith("# Drifted\n")
    assert "<img" not in summary

    report = out / "verdict/report.html"
    assert report.stat().st_size < 6_000_000
    text, dialogs, fetched = shown(report, tmp_path / "profile")
    assert "Drift in column 'characters'" in text
    assert EVIL in text  # as it was written
    assert (dialogs, fetched) == ([], [])


def shown(page: Path, profile: Path) -> tuple[str, list[str], list[str]]:
    """What Chromium shows of a file, the dialogs that it opens, and what it asks for beside itself."""
    pytest.importorskip("selenium", reason="needs selenium")
    from tests.browser import CHROMEDRIVER, CHROMIUM, browser

    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("needs chromium and chromedriver on the PATH")
    with browser(profile) as driver:
        listen = "window.dialogs = []; window.alert = (text) => window.dialogs.push(String(text))"
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": listen})
        driver.get(page.resolve().as_uri())
        time.sleep(2)
        fetched = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        scripts = ("return document.body.innerText", "return window.dialogs", fetched)
        text, dialogs, names = (driver.execute_script(script) for script in scripts)
    return text, dialogs, names


@pytest.mark.slow
def test_the_same_prompts_are_stable(tmp_path: Path) -> None:
    trained = tmp_path / "trained.jsonl"
    trained.write_text(prompts("a {} beside a {}, view {}"), encoding="utf-8")
    result = monitor(tmp_path / "run", "--reference", str(trained), "--incoming", str(trained))
    assert (result.returncode, result.stderr) == (0, "")
    check_metadata(tmp_path / "run" / "steps")
    assert result.stdout.splitlines()[-1].startswith("stable, after ")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    result = monitor(tmp_path / "run", "--reference", "nothing.txt", "--incoming", "nothing.txt")
    assert result.returncode == 2
    assert result.stderr.startswith("error: step monitor: reference nothing.txt: not there")

"""The further processes of an evaluation, with a tiny SDXL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drtune.evaluation.checks import overridden
from drtune.evaluation.work import Work, helpers, make_all
from drtune.files.local import sha256_folder
from drtune.models.miniature.cores import cores
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import open_prompts
from drtune.prompts.shots import choose_prompts
from tests.evaluations import ModelOf
from tests.evaluations import model_of as model_of
from tests.evaluations import prompts_folder as prompts_folder
from tests.lives import pids_of, wait_until_gone
from tests.tuned import make_tuned

SMALL = ("evaluation.batch_size=4", "evaluation.max_prompts=6")
"""Three batches each of base and candidate."""


@pytest.fixture
def work(model_of: ModelOf, prompts_folder: Path) -> Work:
    folder = model_of("sdxl")
    config = overridden(folder, SMALL)
    return Work(config, folder, open_tuned(folder)[0], None, choose_prompts(open_prompts(prompts_folder).eval, 6))


@pytest.fixture
def arguments(model_of: ModelOf, prompts_folder: Path) -> list[str]:
    return [f"--model={model_of('sdxl')}", f"--prompts={prompts_folder}", *(f"--set={one}" for one in SMALL)]


def test_two_processes_make_bit_for_bit_what_one_makes(
    work: Work, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_all(work, work.batches(tmp_path / "one"))
    batches = work.batches(tmp_path / "two")
    with helpers(batches, [*arguments, f"--folder={tmp_path / 'two'}"], processes=2) as helping:
        assert [helper.wait(120) for helper in helping] == [0]
        assert [batch.number for batch in batches if batch.is_made] == [1, 1]
        make_all(work, batches, helping)
    assert sha256_folder(tmp_path / "two") == sha256_folder(tmp_path / "one")
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("evaluate: 24/24 images, ")  # of which 8 were there when it began


def test_what_a_process_that_failed_has_left_is_made_by_the_first(
    work: Work, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    batches = work.batches(tmp_path / "out")
    wrong = [*arguments, f"--folder={tmp_path / 'out'}", "--set=evaluation.batch_size=none"]
    with helpers(batches, wrong, processes=2) as helping:
        make_all(work, batches, helping)
    assert all(batch.is_made for batch in batches)
    assert "evaluate: a process ended with exit code 2; going on without" in capfd.readouterr().err


def test_there_are_no_more_processes_than_batches(work: Work, arguments: list[str], tmp_path: Path) -> None:
    batches = work.batches(tmp_path / "out")
    batches[0].make()
    batches[3].make()
    with helpers(batches, [*arguments, f"--folder={tmp_path / 'out'}"], processes=1) as helping:
        assert helping == []
    make_all(work, batches)
    with helpers(batches, [*arguments, f"--folder={tmp_path / 'out'}"], processes=8) as helping:
        assert helping == []


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="needs two cores, or there is one process alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_first(prompts_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    make_tuned(tmp_path / "model", "miniature", "evaluation.batch_size=1", "processes=2", "batch_size=2")
    places = [f"--model={tmp_path / 'model'}", f"--prompts={prompts_folder}", f"--out={tmp_path / 'report'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "drtune.cli.main", "evaluate", *places], stderr=subprocess.PIPE
    ) as run:
        while not (tmp_path / "report.partial" / "measured" / "base" / "00001.parquet").exists():
            assert run.poll() is None, run.communicate()
            time.sleep(0.05)
        started = pids_of(str(tmp_path))
        assert len(started) == 2
        run.send_signal(number)
        run.communicate()
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until_gone(*started)

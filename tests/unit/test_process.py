import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.process import LINES_KEPT, run_process
from components.train.run import tell_addresses
from drtune.errors import UserError
from tests.lives import wait_until_gone


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_of_both_streams_passes_through_unchanged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run_process(python("import sys; print('10%\\r20%\\r30%'); print('warned', end='', file=sys.stderr)"))
    assert capfdbinary.readouterr().out == b"10%\r20%\r30%\nwarned"


def test_output_is_passed_on_while_the_child_still_runs(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    child = f"import pathlib, time\nprint('half')\nwhile not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)"
    parent = f"from components.process import run_process; run_process([{sys.executable!r}, '-c', {child!r}])"
    with subprocess.Popen(python(parent), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"half\n"
        go_on.touch()
    assert process.returncode == 0


def test_a_failure_names_the_exit_code_and_the_last_lines() -> None:
    with pytest.raises(RuntimeError, match="exit code 7") as caught:
        run_process(python("for i in range(100): print('line', i)\nprint('  indented', end='')\nraise SystemExit(7)"))
    lines = str(caught.value).splitlines()[-LINES_KEPT:]
    assert lines == [f"  line {i}" for i in range(100 - LINES_KEPT + 1, 100)] + ["    indented"]


def test_a_child_that_was_killed_is_reported_with_its_signal() -> None:
    with pytest.raises(RuntimeError, match="ended with signal SIGKILL"):
        run_process(python("import os; os.kill(os.getpid(), 9)"))


def test_a_mistake_of_the_user_stays_one() -> None:
    with pytest.raises(UserError, match=r"^steps=0: give at least 1$"):
        run_process(python("print('reading'); print('error: steps=0: give at least 1'); raise SystemExit(2)"))


TALKING = "while True: print('.', flush=True); time.sleep(0.02)"
SILENT = "from drtune.lifetime import mortal\nwith mortal(): started(); time.sleep(600)"


def _start_and_wait_for_the_grandchild(tmp_path: Path, work: str = TALKING) -> tuple[subprocess.Popen[bytes], int]:
    """A process that runs another by `run_process`, and the other's number, once it is at `work`."""
    pid_file = tmp_path / "pid"
    child = (
        "import os, pathlib, time\n"
        "def started():\n"
        f"    pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"    os.rename({str(tmp_path / 'new')!r}, {str(pid_file)!r})\n"
        f"{'' if 'started()' in work else 'started()'}\n{work}"
    )
    parent = f"from components.process import run_process; run_process([{sys.executable!r}, '-c', {child!r}])"
    process = subprocess.Popen(python(parent), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while not pid_file.exists():
        time.sleep(0.02)
    return process, int(pid_file.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("work", [TALKING, SILENT], ids=["talking", "silent"])
def test_a_signal_ends_the_child_too(tmp_path: Path, number: signal.Signals, work: str) -> None:
    process, pid = _start_and_wait_for_the_grandchild(tmp_path, work)
    with process:
        process.send_signal(number)
        assert process.stdout is not None
        process.stdout.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until_gone(pid)


@pytest.mark.parametrize("work", [TALKING, SILENT], ids=["talking", "silent"])
def test_a_reader_that_goes_away_ends_the_child_too(tmp_path: Path, work: str) -> None:
    process, pid = _start_and_wait_for_the_grandchild(tmp_path, work)
    with process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode != 0
    wait_until_gone(pid)


def test_in_a_pod_artifacts_are_called_by_their_addresses(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "print('report: /minio/mlpipeline/v2/report.html, --out=/s3/b/k, `/gcs/b/k`, not /home/minio/x nor s3://b/k')"
    )
    run_process(python(code))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    run_process(python(code))
    here, there = capfdbinary.readouterr().out.splitlines()
    assert here.startswith(b"report: /minio/mlpipeline/v2/report.html, --out=/s3/b/k, `/gcs/b/k`, ")
    assert there == (
        b"report: minio://mlpipeline/v2/report.html, --out=s3://b/k, `gs://b/k`, not /home/minio/x nor s3://b/k"
    )


def test_the_summary_of_a_training_in_a_pod_names_no_path_of_it(tmp_path: Path) -> None:
    here = (
        f"- The tuned weights: `{tmp_path}/adapter/a.safetensors`\n- Plots: `tensorboard --logdir={tmp_path}`\n"
        f"- Go on from here: `drtune train --out={tmp_path} --resume`\n"
    )
    summary = tmp_path / "summary.md"
    summary.write_text(here, encoding="utf-8")
    tell_addresses(tmp_path, str(tmp_path))
    assert summary.read_text(encoding="utf-8") == here
    tell_addresses(tmp_path, "minio://mlpipeline/v2/model")
    assert summary.read_text(encoding="utf-8") == (
        "- The tuned weights: `minio://mlpipeline/v2/model/adapter/a.safetensors`\n"
    )

"""Hostile inputs for the commands: each ends well or in one line with exit code 2, soon, and within bounded memory.

python -m benchmarks.fuzz [count]

Files of a run (prompt set, model with its checkpoint, pictures, report, decision, registry) are damaged, and options
and settings are drawn from what goes wrong elsewhere. Counted is what may not be: a traceback, more lines than one,
more than 30 s, more than 2 GB, a file outside of the work folder or left in the temporary one. The commands run by
CliRunner in one process; one that hangs is killed, and another goes on behind it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from benchmarks.hostile import Input, damage, inputs

SECONDS = 30.0
"""Without those in which it waits for a core that others use."""
BYTES = 2 * 10**9
FAULTS = ("traceback", "many lines", "hang", "crash", "memory", "outside", "left behind")
ASSETS = "assets"


def main() -> None:
    """Try them all and print the table; end with exit code 1 if one did what may not be."""
    if sys.argv[1:2] == ["--from"]:
        return _try_from(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        outcomes = fuzz(count, Path(name))
    raise SystemExit(any(outcome in FAULTS for _, outcome in outcomes))


def fuzz(count: int, work: Path) -> Counter[tuple[str, str]]:
    """Try `count` inputs in `work`; how often each command ended in which way, which is printed as a table too."""
    outcomes: Counter[tuple[str, str]] = Counter()
    with _run(["-m", "benchmarks.hostile", str(work / ASSETS)], work) as made:
        made.communicate()
    if made.returncode:
        raise RuntimeError("the files to be damaged could not be made")
    next_one = 0
    while next_one < count:
        for number, command, outcome in _followed(
            _run(["-m", "benchmarks.fuzz", "--from", str(next_one), str(count), str(work)], work)
        ):
            outcomes[command, outcome] += 1
            next_one = number + 1
    commands = sorted({command for command, _ in outcomes})
    columns = ("done", "refused", *FAULTS)
    print(f"{'':10}" + "".join(f"{column:>13}" for column in columns))
    for command in commands:
        print(f"{command:10}" + "".join(f"{outcomes[command, column]:13}" for column in columns))
    print(f"{'all':10}" + "".join(f"{sum(outcomes[one, column] for one in commands):13}" for column in columns))
    return outcomes


def _run(arguments: list[str], work: Path) -> subprocess.Popen[str]:
    """A process of ours, in the work folder, with temporary files there and without keys or a network."""
    (work / "tmp").mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(work / "tmp"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:99999",
    }
    return subprocess.Popen([sys.executable, *arguments], cwd=work, env=environment, stdout=subprocess.PIPE, text=True)


def _followed(process: subprocess.Popen[str]) -> Iterator[tuple[int, str, str]]:
    """The outcomes that a process tells; the last one is a hang, if it had to be killed."""
    assert process.stdout is not None
    begun = None
    started = [float("inf")]  # with the first line, when all is imported
    Thread(target=_limit, args=(process, started), daemon=True).start()
    with process:
        for line in process.stdout:
            started[0] = _seconds_of(process)
            told = json.loads(line)
            if told["outcome"] is None:
                begun = told
            else:
                begun = None
                about = f" with {told['arguments']}" if told["outcome"] in FAULTS else ""
                print(f"{told['number']}: {told['command']} {told['outcome']}{about}: {told['told']}", flush=True)
                yield told["number"], told["command"], told["outcome"]
    if process.returncode and begun:
        how = "hang" if process.returncode == -9 else "crash"
        print(f"{begun['number']}: {how.upper()}: {begun['arguments']}", flush=True)
        yield begun["number"], begun["command"], how
    elif process.returncode:
        raise RuntimeError(f"the process ended with {process.returncode} between two inputs")


def _limit(process: subprocess.Popen[str], started: list[float]) -> None:
    """Kill a process that has told nothing for SECONDS."""
    while process.poll() is None:
        if _seconds_of(process) - started[0] > SECONDS:
            process.kill()
        time.sleep(0.2)


def _seconds_of(process: subprocess.Popen[str]) -> float:
    """A clock that stands still while the process waits for a core."""
    try:
        waited = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        waited = 0
    return time.monotonic() - waited / 1e9


def _try_from(first: int, count: int, work: Path) -> None:
    """Draw the inputs again, and try those from `first` on; each is told before and after."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    import drtune.evaluation.run
    import drtune.training.trainer  # noqa: F401 - imports take their time, and not that of the first input

    resource.setrlimit(resource.RLIMIT_DATA, (3 * BYTES, 3 * BYTES))  # what takes more ends, and not the machine
    written = _watch_writing(work)
    number = -1
    tried: set[str] = set()

    @seed(0)
    @settings(
        max_examples=20 * count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs())
    def try_one(drawn: Input) -> None:
        nonlocal number
        if repr(drawn) in tried:
            return
        tried.add(repr(drawn))
        number += 1
        if number >= first:
            about = {"number": number, "command": drawn.command, "arguments": repr(drawn)[:2000]}
            _tell(about | {"outcome": None})
            outcome, told = attempt(drawn, work / f"input-{number}", work, written)
            _tell(about | {"outcome": outcome, "told": told})
        if len(tried) == count:
            os._exit(0)  # hypothesis would go on drawing

    try_one()


def _tell(line: dict[str, object]) -> None:
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def _watch_writing(work: Path) -> list[str]:
    """A list to which every file is added that this process opens to write or makes outside of the work folder."""
    outside: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            place = arguments[0]
        elif event in ("os.mkdir", "os.symlink", "os.link", "os.rename"):
            place = arguments[0 if event == "os.mkdir" else 1]
        else:
            return
        if isinstance(place, str | bytes | Path):
            real = os.path.realpath(os.fsdecode(place))
            if not real.startswith((f"{work}/", "/dev/", "/proc/")):
                outside.append(real)

    sys.addaudithook(hook)
    return outside


def attempt(drawn: Input, folder: Path, work: Path, outside: list[str]) -> tuple[str, str]:
    """Run one input in a fresh folder with copies of the assets; what became of it, and what it said."""
    from click.testing import CliRunner

    from drtune.cli.main import main as drtune

    shutil.copytree(work / ASSETS, folder, symlinks=True)
    damage(drawn, folder)
    os.chdir(folder)
    outside.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    result = CliRunner().invoke(drtune, drawn.arguments)
    peak = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    os.chdir(work)
    shutil.rmtree(folder)
    left = [path for path in (work / "tmp").iterdir() if path.is_dir() and path.name.startswith("tmp")]
    for path in left:
        shutil.rmtree(path)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error)[-3:])
    if outside:
        return "outside", ", ".join(outside)
    if left:
        return "left behind", ", ".join(map(str, left))
    if peak > BYTES:
        return "memory", f"{peak / 1e9:.1f} GB"
    if result.exit_code != 2:
        return "done", ""
    message = result.stderr[result.stderr.rfind("\nerror: ") + 1 :].rstrip("\n")
    is_line = message.startswith("error: ") and "\n" not in message
    return ("refused", message) if is_line or result.stderr.startswith("Usage: ") else ("many lines", result.stderr)


if __name__ == "__main__":
    main()

"""What a node of a training on a cluster runs: `python -m drtune.training.node s3://bucket/prefix/RUN/train`.

It fetches what is asked there, runs its share of the processes by torchrun, which finds the other nodes by the PET_*
variables that the cluster sets, and keeps their folder mirrored there. Its exit code tells the cluster what to do:

    0      the model is made
    1, 2   failed, or given what cannot be used: starting again would not help
    3      nobody waits for the model any more
    > 127  ended by a signal, or by another node that went away: start again, it goes on from the newest checkpoint

torchrun itself starts nothing again: it cannot tell these apart, and would repeat a mistake until its count is used up.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import click

from drtune.config import load_config
from drtune.contracts import CONFIG
from drtune.errors import AwayError, InterruptionError, UserError
from drtune.files.storage import Storage, open_storage
from drtune.lifetime import as_command
from drtune.prompts.prepare import open_prompts
from drtune.training.mirror import LAUNCHER, MODEL, REQUEST, Mirror
from drtune.training.torchrun import ProcessesFailedError, run_workers
from drtune.training.trainer_status import shown_in_trainer

ALONE = 3
"""Exit code when the launcher is gone."""
SAVING_SECONDS = 15
"""What this process needs itself, of its grace, after its processes have ended."""


@click.command()
@click.argument("uri")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for all that is fetched and made.")
@click.option("--processes", type=int, default=1, show_default=True, help="Processes of this node.")
@click.option("--grace-seconds", type=int, default=30, show_default=True, help="Time to save and end after SIGTERM.")
@click.option("--alone-seconds", type=int, help="End when the launcher was not heard of for so long.")
@click.option("--join-seconds", type=int, default=600, show_default=True, help="How long to wait for other nodes.")
def main(
    uri: str, work: Path, processes: int, grace_seconds: int, alone_seconds: int | None, join_seconds: int
) -> None:
    """Train what is asked at URI, as one of the nodes that do."""
    # torch reads these when it is imported. A node that loses another would else write 35 lines of C++ frames for each
    # of its processes (torch 2.13 TCPStore.cpp, a warning), behind the line of the other node that says why.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # torchrun's own
    with as_command():
        _run(uri, work, processes, grace_seconds, alone_seconds, join_seconds)


def _run(
    uri: str, work: Path, processes: int, grace_seconds: int, alone_seconds: int | None, join_seconds: int
) -> None:
    storage = open_storage(uri)
    try:
        request = _fetch_request(storage, work)
    except AwayError as error:  # the launcher could write there
        raise InterruptionError(str(error), signal.SIGTERM) from None
    _wait_for_the_first_node(join_seconds)
    is_alone = threading.Event()
    if alone_seconds:
        threading.Thread(target=_listen, args=(storage, alone_seconds, is_alone), daemon=True).start()
    arguments = [f"--config={request / CONFIG}", f"--prompts={request / 'prompts'}", f"--out={work / MODEL}"]
    options = [
        "--max-restarts=0",
        f"--shutdown-timeout={max(1, grace_seconds - SAVING_SECONDS)}",
        f"--rdzv-conf=join_timeout={join_seconds},timeout={join_seconds}",  # with Workers only, and with a Master
    ]
    steps = load_config(request / CONFIG).steps
    try:
        with shown_in_trainer(work / MODEL, steps):
            run_workers(processes, [*arguments, f"--mirror={uri}/{MODEL}"], options=options)
    except (ProcessesFailedError, InterruptionError) as ended:
        print(ended, file=sys.stderr)
        sys.exit(ALONE if is_alone.is_set() else ended.exit_code)


def _fetch_request(storage: Storage, work: Path) -> Path:
    """The folder with what is asked: config.yaml and prompts/."""
    folder = work / REQUEST
    Mirror(folder, open_storage(f"{storage.uri}/{REQUEST}")).fetch()
    if not (folder / CONFIG).exists():
        raise UserError(f"{storage.uri}/{REQUEST}: nothing is asked here; the launcher writes it first")
    open_prompts(folder / "prompts")  # refused here, and not by each of the processes
    return folder


def _wait_for_the_first_node(join_seconds: int) -> None:
    """Its name is known only once its pod has started."""
    # The training operator gives MASTER_ADDR where torchrun looks for PET_MASTER_ADDR.
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name in os.environ:
            os.environ.setdefault(f"PET_{name}", os.environ[name])
    host = os.environ.get("PET_RDZV_ENDPOINT", "").partition(":")[0] or os.environ.get("PET_MASTER_ADDR")
    give_up = time.monotonic() + join_seconds
    while host:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() > give_up:
                raise InterruptionError(f"no node has the name {host}: {error}", signal.SIGTERM) from None
            time.sleep(2)


def _listen(storage: Storage, alone_seconds: int, is_alone: threading.Event) -> None:
    """End this process by SIGTERM, which saves, when the launcher's word stays the same for `alone_seconds`."""
    word, unheard = b"", 0.0
    pause = alone_seconds / 20
    while unheard < alone_seconds:
        time.sleep(pause)
        try:
            heard = storage.read(LAUNCHER)
        except (UserError, OSError):
            continue  # of a store that is away nothing can be concluded
        unheard = unheard + pause if heard == word else 0.0
        word = heard
    print(f"the launcher was not heard of for {alone_seconds} s: nobody waits for this training", file=sys.stderr)
    is_alone.set()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

"""A page that follows a run: what its folder says at each look, served to this machine alone.

It imports no torch, and only reads: the run does not know of it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from drtune.config import Config, load_config
from drtune.contracts import CONFIG, MANIFEST, read_curve
from drtune.errors import UserError
from drtune.files.output import MARK
from drtune.files.progress import spell
from drtune.training.history import METRICS, RECENT, UpdateMetrics, begun_from, pace_of, read_metrics, tuning_charts

SAMPLE = re.compile(r"step-\d{6,}\.png")
SILENT_SECONDS = 120.0
"""Without an update for so long, and for five times the usual, a run is said to be silent."""


def server_of(run: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page on 127.0.0.1, which is to be started.

    Raises:
        UserError: there is no such run, or the port is taken.
    """
    folder = next((place for place in (run, run / "model") if (place / MARK).exists()), None)
    if folder is None:
        raise UserError(f"run {run}: holds no training, or none yet; give the --out of one that was started")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, folder))
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; give another, or 0 for any that is free") from None


def state_of(folder: Path, now: float) -> dict[str, Any]:
    """What the page shows of a run.

    `title`, `status`, `facts` (pairs), `charts` (SVG), `samples` (files) and what the first of them is of, `began`.
    """
    if not (folder / METRICS).exists() or not (updates := read_metrics(folder)):
        return {"title": str(folder), "status": "before its first update", "facts": [], "charts": "", "samples": []}
    config = load_config(folder / CONFIG)
    done, is_finished = updates[-1].step, (folder / MANIFEST).exists()
    pace = pace_of(updates)
    silence = now - updates[-1].at
    is_silent = not is_finished and silence > max(SILENT_SECONDS, 5 * pace)
    return {
        "title": f"{config.base_model}, tuned on {' + '.join(config.rewards)}",
        "status": "finished" if is_finished else f"silent for {spell(silence)}" if is_silent else "running",
        "done": done / config.steps,
        "facts": _facts(updates, config, None if is_finished or is_silent else pace),
        "began": begun_from(config).capitalize(),
        "charts": tuning_charts(updates, read_curve(folder)),
        "samples": sorted(path.name for path in (folder / "samples").glob("*.png") if SAMPLE.fullmatch(path.name)),
    }


def _facts(updates: Sequence[UpdateMetrics], config: Config, pace: float | None) -> list[tuple[str, str]]:
    """Names and values, in words; the time left is told where there is a pace."""
    last = updates[-1]
    seconds = fmean(update.seconds for update in updates[-RECENT:])
    facts = [
        ("updates", f"{last.step} of {config.steps}"),
        ("an update", f"{seconds:.3g} s of {config.batch_size} pictures"),
        ("throughput", f"{config.batch_size / seconds:.3g} pictures a second"),
    ]
    if pace and last.step < config.steps:
        facts.append(("time left", spell((config.steps - last.step) * pace)))
    if last.memory:
        facts.append(("memory, at most", f"{last.memory / 2**30:.3g} GiB"))
    return facts


class _Handler(BaseHTTPRequestHandler):
    """The page, the run's state and its samples; nothing else of the disk."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            page = files("drtune.training").joinpath("watch.html").read_bytes()
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page)
        elif path == "/state":
            self._state()
        elif SAMPLE.fullmatch(name := path.removeprefix("/samples/")) and (self.folder / "samples" / name).is_file():
            self._answer(HTTPStatus.OK, "image/png", (self.folder / "samples" / name).read_bytes())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here")

    def _state(self) -> None:
        try:
            state = state_of(self.folder, time.time())
        except (UserError, OSError) as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", str(error).encode())
        else:
            self._answer(HTTPStatus.OK, "application/json", json.dumps(state).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silence: a line every two seconds helps nobody."""

"""A message to an address of the user's when something long has ended, well or not."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, InvalidURL
from urllib.request import Request, urlopen

from drtune.errors import UserError

TIMEOUT_SECONDS = 10.0
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of what a signal ended."""


def check_address(url: str | None) -> None:
    """Raise UserError where there is an address and it is none that can be posted to."""
    if url and not url.startswith(("http://", "https://")):
        raise UserError("--webhook: not an address that begins with http:// or https://; correct it, or DRTUNE_WEBHOOK")


@contextmanager
def telling(url: str | None, what: str, result: Callable[[], str]) -> Iterator[None]:
    """Post to `url`, if there is one, how what happens within ended: finished, stopped or failed.

    The message is JSON with `status`, `what`, `detail`, and `text`, a sentence, which is what chats show. One that does
    not arrive is told, and changes nothing else.

    Args:
        url: as `check_address` wants it.
        what: the name of it, as in "drtune train runs/mine".
        result: tells what came of it, asked for when it finished.
    """
    try:
        yield
    except BaseException as error:
        is_stopped = isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) in STOPPED
        _tell(url, "stopped" if is_stopped else "failed", what, _reason(error))
        raise
    _tell(url, "finished", what, result())


def _reason(error: BaseException) -> str:
    if type(error) is SystemExit:  # of processes that were started, which have told why themselves
        return f"exit code {error.code}"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def post(url: str, message: Mapping[str, str]) -> str:
    """Post a message as JSON to an address that begins with http; why it did not arrive, or "".

    The address may hold a secret, for who knows it can write there: it stands in no reason.
    """
    try:
        request = Request(url, json.dumps(message).encode(), {"Content-Type": "application/json"})
        urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except (InvalidURL, ValueError):
        return "its address is none"
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or type(error).__name__)
    return ""


def _tell(url: str | None, status: str, what: str, detail: str) -> None:
    if not url:
        return
    message = {"text": f"{what} {status}: {detail}", "status": status, "what": what, "detail": detail}
    if problem := post(url, message):
        print(f"webhook: the message did not arrive ({problem})", file=sys.stderr)

"""A web server of a test's own that answers as it is told, and remembers what it was asked and sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.serving import JSON, Handler, Serving


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Web(Serving):
    """Starts on entry, ends on exit."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.answers: dict[str, tuple[int, str | bytes]] = {}
        """Status and text by path, or 0 to hang up instead; what is not here is answered with 404."""
        self.asked: list[Asked] = []


class _Handler(Handler):
    server: Web

    def _serve(self) -> None:
        url, web = urlsplit(self.path), self.server
        web.asked.append(Asked(self.command, url.path, url.query, dict(self.headers.items()), self.body()))
        status, text = web.answers.get(url.path, (404, "{}"))
        body = text.encode() if isinstance(text, str) else text
        if status:
            self.send(status, JSON if body.startswith((b"{", b"[")) else "text/plain", body)
        else:
            self.close_connection = True

    do_GET = do_POST = _serve


@contextmanager
def saying(answer: bytes) -> Iterator[int]:
    """The port of a server that answers one request with these bytes, HTTP or not, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield server.getsockname()[1]
        thread.join()

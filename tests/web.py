"""A web server of a test's own that answers as it is told, and remembers what it was asked and sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Web:
    """Starts on entry, ends on exit."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        """Status and text by path; what is not here is answered with 404."""
        self.asked: list[Asked] = []

    def __enter__(self) -> Web:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.asked.append(Asked(self.command, url.path, url.query, dict(self.headers.items()), body))
                status, text = web.answers.get(url.path, (404, "{}"))
                self.send_response(status)
                kind = "application/json" if text.startswith(("{", "[")) else "text/plain"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = _serve

            def log_message(self, *_about: object) -> None:
                """Tests read `asked` instead."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def port(self) -> int:
        return self._http.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


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

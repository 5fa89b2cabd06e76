"""A way to a real S3 server on which requests get lost, as on the network of a busy cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Literal

from tests.serving import Handler, Serving

Fault = Literal["busy", "broken", "stalled", "lost", "cut"]
"""503; the connection ends without an answer; no answer; answered, and the answer is lost; half of the answer comes."""
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy(Serving):
    """Listens on entry; `fault(method, path)` says what becomes of a request, None: all is well."""

    def __init__(self, port: int, fault: Callable[[str, str], Fault | None]) -> None:
        super().__init__(_Handler)
        self.port, self.fault = port, fault
        self.over = threading.Event()

    def __exit__(self, *error: object) -> None:
        self.over.set()
        super().__exit__(*error)


class _Handler(Handler):
    server: Proxy

    def do_GET(self) -> None:
        server, body = self.server, self.body()
        fault = server.fault(self.command, self.path)
        self.close_connection = fault not in (None, "busy")
        if fault == "stalled":
            server.over.wait()
        elif fault == "busy":
            self.send_response_only(503)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(BUSY)))
            self.end_headers()
            self.wfile.write(BUSY)
        elif fault != "broken":
            self._pass_on(server.port, body, fault)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _pass_on(self, port: int, body: bytes, fault: Fault | None) -> None:
        upstream = HTTPConnection("127.0.0.1", port)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lost":
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

"""What the HTTP servers of tests have in common: real HTTP on this machine, from entry to exit."""

from __future__ import annotations

import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

JSON = "application/json"


class Serving(ThreadingHTTPServer):
    """Starts on entry, ends on exit; each request in a thread, which finds the server's state in `self.server`."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], certificate: tuple[Path, Path] | None = None) -> None:
        """With a certificate and its key it speaks TLS."""
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *about: Any) -> None:
        """A client that hangs up, or does not trust the certificate, is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*about)


class RefusalError(Exception):
    """Answered with this status instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Of a request, which tests read from what the server keeps and not from a log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer is 40 ms late

    def body(self) -> bytes:
        """What was sent with the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, kind: str, content: str | bytes, **headers: str) -> None:
        """Answer with content of that type, and with more headers."""
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_about: object) -> None:
        """Say nothing."""

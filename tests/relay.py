"""A way to a server on this machine: encrypted, or through a proxy (CONNECT, RFC 9110, section 9.3.6)."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Self


class Relay:
    """Listens on entry; with a certificate it speaks TLS and leads to `port`, without it is a proxy."""

    def __init__(self, port: int | None = None, certificate: tuple[Path, Path] | None = None) -> None:
        self._to = port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(*certificate)
        self.asked: list[str] = []
        """What the proxy was asked for, head by head."""

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        to = self._to or self._asked_of(connection)
        there = socket.create_connection(("127.0.0.1", to))
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            else:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        except OSError:  # who does not trust the certificate hangs up
            there.close()
            return connection.close()
        with connection, there:
            back = threading.Thread(target=_pass_on, args=(there, connection), daemon=True)
            back.start()
            _pass_on(connection, there)
            back.join()
        return None

    def _asked_of(self, connection: socket.socket) -> int:
        """The port that the proxy is to lead to."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.asked.append(head.decode())
        return int(head.split()[1].decode().partition(":")[2])


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    try:
        while received := one.recv(65536):
            other.sendall(received)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def make_certificate(folder: Path) -> tuple[Path, Path] | None:
    """One of this machine's own, that signs itself, and its key; None without openssl."""
    if shutil.which("openssl") is None:
        return None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key

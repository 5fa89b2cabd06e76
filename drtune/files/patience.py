"""Patience with a server that is away for a while, or busy: it is asked again, after longer and longer pauses."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # as requests does

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout, make_headers
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, ProxyError, ResponseError, TimeoutError
from urllib3.util import parse_url

from drtune.errors import UserError
from drtune.files.progress import spell

Result = TypeVar("Result")

PATIENCE_SECONDS = 300.0
"""Well below the 15 minutes for which the signature of a request counts."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
TRANSIENT = (NewConnectionError, ProtocolError, ProxyError, ResponseError, TimeoutError)
"""What may be over in a while: no connection or no answer in time, one that broke, a busy server."""
BUSY = (429, 500, 502, 503, 504)
CONNECT_SECONDS = 30.0
"""For the connection, and then again for the sending of a whole part, of 5 MiB and more."""
READ_SECONDS = 60.0
"""For each piece of an answer."""


class OutOfPatienceError(HTTPError):
    """Asked again and again for `seconds`, and last failed for the `reason`."""

    def __init__(self, reason: HTTPError, seconds: float) -> None:
        super().__init__(str(reason))
        self.reason, self.seconds = reason, seconds


class Patience:
    """How long is asked again for what is away."""

    def __init__(
        self,
        seconds: float = PATIENCE_SECONDS,
        *,
        read_seconds: float = READ_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.seconds, self._clock, self._sleep = seconds, clock, sleep
        self.timeout = Timeout(connect=CONNECT_SECONDS, read=read_seconds)

    def ask(self, call: Callable[[], Result]) -> Result:
        """What `call` returns; it is called again while it fails in a way that may pass.

        Raises:
            OutOfPatienceError: it never returned.
            HTTPError: it failed in another way.
        """
        failing_since: float | None = None  # and not since the call: a long download that breaks has not waited yet
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except HTTPError as error:
                if not isinstance(error, TRANSIENT):
                    raise
                now = self._clock()
                waited = 0.0 if failing_since is None else now - failing_since
                if waited + pause > self.seconds:
                    raise OutOfPatienceError(error, waited) from None
                if failing_since is None:
                    failing_since = now
                    print(f"{error} (asking again for {spell(self.seconds)})", file=sys.stderr, flush=True)
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Within, there is patience for so long."""
        before, self.seconds = self.seconds, seconds
        try:
            yield
        finally:
            self.seconds = before


class PatientPool(PoolManager):
    """Repeats every request while the server is away or busy: all that S3 is asked here may be asked twice.

    urllib3's own retries leave out POST, by which an upload in parts is begun and completed, and count tries, not time.
    `certificates` is a file with those to trust, in place of the system's.
    """

    def __init__(self, patience: Patience, *, certificates: str | None = None, **settings: Any) -> None:
        super().__init__(timeout=patience.timeout, retries=False, ca_certs=certificates, **settings)
        self.patience = patience

    def urlopen(  # type: ignore[override]  # the signature is PoolManager's
        self, method: str, url: str, redirect: bool = True, **request: Any
    ) -> BaseHTTPResponse:
        """The server's answer, which is none of BUSY."""

        def once() -> BaseHTTPResponse:
            response = super(PatientPool, self).urlopen(method, url, redirect, **request)
            if response.status in BUSY:
                response.drain_conn()
                raise ResponseError(f"{url.partition('?')[0]} answered {response.status}")
            return response

        return self.patience.ask(once)


class _PatientProxy(PatientPool, ProxyManager):
    """The same through a proxy."""


def patient_pool(url: str, environment: Mapping[str, str], patience: Patience) -> PatientPool:
    """The way to a server, with the certificates and the proxy that the environment names for it.

    Args:
        url: Of the server.
        environment: AWS_CA_BUNDLE is a file with the certificates to trust; HTTPS_PROXY, HTTP_PROXY and NO_PROXY, also
            in small letters, are what every other client takes them for.
        patience: With it.

    Raises:
        UserError: there is no such file, it holds no certificates, or the proxy's address is none.
    """
    certificates = environment.get("AWS_CA_BUNDLE") or None
    if certificates:
        try:
            ssl.create_default_context(cafile=certificates)
        except OSError as error:  # of which SSLError is one
            why = error.strerror or "no certificates"
            raise UserError(f"AWS_CA_BUNDLE={certificates}: cannot be used ({why}); name a PEM file") from None
    proxy = _proxy_of(url, environment)
    if proxy is None:
        return PatientPool(patience, certificates=certificates)
    try:
        auth = parse_url(proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
        return _PatientProxy(patience, certificates=certificates, proxy_url=proxy, proxy_headers=headers)
    except HTTPError:  # whose words could hold a password
        raise UserError("HTTPS_PROXY, HTTP_PROXY: is no address of a proxy; wanted http://host:port") from None


def _proxy_of(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy before a server, if there is one."""

    def named(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    parts = urlsplit(url)
    bypassed = proxy_bypass_environment(parts.netloc, {"no": named("no_proxy")})
    return None if bypassed else named(f"{parts.scheme}_proxy") or None

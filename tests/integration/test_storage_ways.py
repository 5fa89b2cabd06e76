"""Ways to a real S3 server: with certificates of one's own, and through a proxy."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtune.errors import UserError
from drtune.files.patience import Patience
from drtune.files.storage import open_storage
from tests.relay import Relay, make_certificate
from tests.s3 import BUCKET, S3Server

KEY = "ways/file"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = make_certificate(tmp_path_factory.mktemp("certificate"))
    return made or pytest.skip("needs openssl")


@pytest.fixture(scope="module")
def encrypted(s3_server: S3Server, certificate: tuple[Path, Path]) -> Iterator[dict[str, str]]:
    """What leads to the server by TLS, but for the certificates to trust."""
    with Relay(s3_server.ports["s3.port"], certificate) as relay:
        yield s3_server.environment | {"AWS_ENDPOINT_URL": f"https://127.0.0.1:{relay.port}"}


def written(environment: dict[str, str]) -> bytes:
    """What is read of what was written there."""
    storage = open_storage(f"s3://{BUCKET}", environment, patience=Patience(0.0))
    storage.write(KEY, b"content")
    return storage.read(KEY)


def test_a_server_is_trusted_by_the_certificates_that_are_named(
    encrypted: dict[str, str], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    assert written(encrypted | {"AWS_CA_BUNDLE": str(certificate[0])}) == b"content"
    with pytest.raises(UserError, match=r"\(SSLError\) .*; AWS_CA_BUNDLE names a file with the certificates to trust"):
        written(encrypted)
    with pytest.raises(UserError, match=r"^AWS_CA_BUNDLE=.*nothing\.pem: cannot be used \(No such file or directory\)"):
        written(encrypted | {"AWS_CA_BUNDLE": str(tmp_path / "nothing.pem")})
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(UserError, match=r"^AWS_CA_BUNDLE=.*text\.pem: cannot be used .*; name a PEM file"):
        written(encrypted | {"AWS_CA_BUNDLE": str(tmp_path / "text.pem")})


def test_a_proxy_is_taken_unless_the_server_is_named_as_near(
    encrypted: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    with Relay() as proxy:
        ways = encrypted | {"AWS_CA_BUNDLE": str(certificate[0])}
        ways |= {"HTTPS_PROXY": f"http://me:se%40cret@127.0.0.1:{proxy.port}"}
        assert written(ways) == b"content"
        [head, *_] = proxy.asked
        assert head.startswith(f"CONNECT {ways['AWS_ENDPOINT_URL'].removeprefix('https://')} HTTP/1.")
        assert f"Basic {base64.b64encode(b'me:se@cret').decode()}\r\n" in head
        proxy.asked.clear()
        assert written(ways | {"no_proxy": "elsewhere.example,127.0.0.1"}) == b"content"
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("http://me:secret@127.0.0.1:9", r"\(ProxyError\) .*; correct HTTPS_PROXY, or name the server in NO_PROXY"),
        ("socks://me:secret@127.0.0.1:9", "^HTTPS_PROXY, HTTP_PROXY: is no address of a proxy"),
    ],
)
def test_a_wrong_proxy_is_one_line_without_its_password(
    encrypted: dict[str, str], certificate: tuple[Path, Path], proxy: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        written(encrypted | {"AWS_CA_BUNDLE": str(certificate[0]), "HTTPS_PROXY": proxy})
    assert "secret" not in str(refused.value)

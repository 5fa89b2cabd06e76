"""S3 behind a way on which requests get lost: what can be asked again is, and what cannot help fails at once."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from minio import Minio
from urllib3.exceptions import ProtocolError

from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.files.patience import Patience
from drtune.files.storage import Storage, open_storage
from tests.proxy import Fault, Proxy
from tests.s3 import BUCKET, S3Server

LARGE = 6 << 20
"""Bytes, which minio sends in two parts."""


class Faults:
    """The first `count` requests of each kind fail, all of the other ones go through."""

    def __init__(self, fault: Fault, count: int = 2, *, only: str = "") -> None:
        self.fault: Fault = fault
        self.count, self.only = count, only
        self.seen: Counter[str] = Counter()

    def __call__(self, method: str, path: str) -> Fault | None:
        request = f"{method} {path}"
        self.seen[request] += 1
        return self.fault if self.only in request and self.seen[request] <= self.count else None


def behind(proxy: Proxy, server: S3Server, *, seconds: float = 300.0) -> tuple[Storage, list[float]]:
    """A storage of its own behind the proxy, and the pauses that it made, none of which took any time."""
    pauses: list[float] = []
    patience = Patience(seconds, read_seconds=0.5, clock=lambda: sum(pauses), sleep=pauses.append)
    environment = server.environment | {"AWS_ENDPOINT_URL": proxy.url}
    return open_storage(f"s3://{BUCKET}/{uuid4().hex}", environment, patience=patience), pauses


@pytest.mark.parametrize("fault", ["busy", "broken", "stalled", "lost"])
def test_whatever_is_asked_is_asked_again_until_it_is_answered(
    s3_server: S3Server, tmp_path: Path, fault: Fault
) -> None:
    source, fetched = tmp_path / "source", tmp_path / "fetched"
    source.write_bytes(b"content")
    with Proxy(s3_server.ports["s3.port"], Faults(fault)) as proxy:
        storage, pauses = behind(proxy, s3_server)
        storage.write("a", b"written")
        storage.upload("b", source)
        assert storage.keys() == ["a", "b"]
        assert storage.read("a") == b"written"
        storage.download("b", fetched)
        assert fetched.read_bytes() == b"content"
        storage.delete("a")
        assert storage.keys() == ["b"]
    assert pauses[:2] == [0.5, 1.0]


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_an_upload_in_parts_is_begun_sent_and_completed_in_spite_of_all(
    s3_server: S3Server, tmp_path: Path, fault: Fault
) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * (LARGE // 256))
    faults = Faults(fault, count=1)
    with Proxy(s3_server.ports["s3.port"], faults) as proxy:
        storage, _ = behind(proxy, s3_server)
        storage.upload("large", source)
        storage.download("large", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == source.read_bytes()
    asked_twice = [request for request, count in faults.seen.items() if count > 1]
    assert any(request.startswith("POST") and "uploadId" in request for request in asked_twice)


def test_a_stream_that_breaks_is_read_again_from_its_beginning(s3_server: S3Server, tmp_path: Path) -> None:
    with Proxy(s3_server.ports["s3.port"], Faults("cut", only="/weights")) as proxy:
        storage, _ = behind(proxy, s3_server)
        content = bytes(range(256)) * 4096
        storage.write("weights", content)
        storage.download("weights", tmp_path / "weights")
        assert (tmp_path / "weights").read_bytes() == content
        assert storage.read("weights") == content
        assert storage.sha256("weights") == sha256_bytes(content)


def test_after_the_patience_one_line_names_what_was_asked_and_how_long(s3_server: S3Server) -> None:
    with Proxy(s3_server.ports["s3.port"], Faults("busy", count=1000)) as proxy:
        storage, pauses = behind(proxy, s3_server, seconds=120.0)
        with pytest.raises(UserError) as refusal:
            storage.write("model/manifest.json", b"{}")
    message = str(refusal.value)
    prefix = storage.uri.rpartition("/")[2]
    assert f"no answer from {proxy.url} ({proxy.url}/{BUCKET} answered 503)" in message  # where the bucket is
    assert f"for {prefix}/model/manifest.json in bucket {BUCKET}, tried for 1 min " in message
    assert len(message.splitlines()) == 1
    assert 60 < sum(pauses) <= 120


def test_what_asking_again_cannot_mend_fails_at_once(s3_server: S3Server) -> None:
    faults = Faults("busy", count=0)
    with Proxy(s3_server.ports["s3.port"], faults) as proxy:
        storage, pauses = behind(proxy, s3_server)
        with pytest.raises(FileNotFoundError):
            storage.read("nothing")
        wrong = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.url, "AWS_SECRET_ACCESS_KEY": "wrong"}
        with pytest.raises(UserError, match="refuses the credentials"):
            open_storage(storage.uri, wrong, patience=storage.patience).write("a", b"")
        elsewhere = open_storage("s3://no-such-bucket/x", wrong | s3_server.environment, patience=storage.patience)
        with pytest.raises(UserError, match="no bucket no-such-bucket"):
            elsewhere.keys()
    assert pauses == []


def test_what_a_console_makes_as_a_folder_is_no_file(s3_server: S3Server) -> None:
    storage = open_storage(f"s3://{BUCKET}/{uuid4().hex}", s3_server.environment)
    console = Minio(
        s3_server.environment["AWS_ENDPOINT_URL"].removeprefix("http://"), "test-key", "test-secret", secure=False
    )
    console.put_object(BUCKET, f"{storage.uri.rpartition('/')[2]}/pictures/", io.BytesIO(), 0)
    storage.write("pictures/a.png", b"picture")
    assert storage.keys() == ["pictures/a.png"]


def test_patience_begins_when_something_fails_and_not_with_a_long_download() -> None:
    now = [0.0]
    calls = iter([ProtocolError("broken"), None])

    def download() -> str:
        now[0] += 1000.0  # longer than the patience
        if (failure := next(calls)) is not None:
            raise failure
        return "whole"

    patience = Patience(300.0, clock=lambda: now[0], sleep=lambda _: None)
    assert patience.ask(download) == "whole"

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.train.request import fetch_model
from drtune.config.sections import read_tree
from drtune.errors import UserError
from drtune.files.folders import opened
from drtune.files.patience import PATIENCE_SECONDS, Patience
from drtune.files.storage import open_storage
from drtune.training.mirror import Mirror
from tests.web import Web, saying

KEYS = {"AWS_ACCESS_KEY_ID": "some-key", "AWS_SECRET_ACCESS_KEY": "some-secret"}


def test_a_bare_path_and_a_file_uri_name_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space and 50%"
    open_storage(str(folder)).write("a/b", b"content")
    assert (folder / "a" / "b").read_bytes() == b"content"
    assert open_storage(folder.as_uri()).read("a/b") == b"content"
    assert open_storage(str(folder)).uri == open_storage(folder.as_uri()).uri == folder.as_uri()


@pytest.mark.parametrize(
    "uri",
    [
        *("http://somewhere/x", "file://relative/x", "s3://", "s3://Bad_Bucket/x", "s3://a/x", "gs://bucket/x"),
        *("s3://models//a//b", "s3://models/a//b", "s3://models/a//", "s3://models/a/../b", "s3://models/./a"),
        *("s3://models/a?b", "s3://models?", "s3://models/a#b", "file:///models/a?b", "file:///models#a"),
        *("http://[::1", "s3://[models"),
    ],
)
def test_a_uri_of_another_kind_is_refused_by_its_value(uri: str) -> None:
    with pytest.raises(UserError, match="wanted a folder, file:///absolute/folder or s3://bucket/prefix") as refusal:
        open_storage(uri, KEYS)
    assert repr(uri) in str(refusal.value)


@settings(deadline=None)
@given(key=st.text("abcdefghijklmnopqrstuvwxyz0123456789-_./"))
def test_a_prefix_is_taken_as_it_stands_or_not_at_all(key: str) -> None:
    parts = key.removesuffix("/").split("/")
    if key == "" or not {"", ".", ".."} & set(parts):
        assert open_storage(f"s3://bucket/{key}", KEYS).uri == "/".join(["s3://bucket", *filter(None, parts)])
    else:
        with pytest.raises(UserError, match="or empty part in it"):
            open_storage(f"s3://bucket/{key}", KEYS)


@pytest.mark.parametrize(
    "endpoint", ["http://host:99999", "http://host:-1", "http://host:port", "http://[::1", "http://a b"]
)
def test_an_endpoint_that_cannot_be_is_refused_in_a_line(endpoint: str) -> None:
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL") as refusal:
        open_storage("s3://models", KEYS | {"AWS_ENDPOINT_URL": endpoint})
    assert "\n" not in str(refusal.value)


def test_a_region_that_cannot_be_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="AWS_REGION"):
        open_storage("s3://models", KEYS | {"AWS_REGION": "no region"})


def test_missing_secrets_are_named() -> None:
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set"):
        open_storage("s3://bucket/models", {})
    with pytest.raises(UserError, match=": AWS_SECRET_ACCESS_KEY not set"):
        open_storage("s3://bucket/models", {"AWS_ACCESS_KEY_ID": "some-key", "AWS_SECRET_ACCESS_KEY": ""})


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://me:hidden@host", "http://a/b"])
def test_a_wrong_endpoint_is_refused_without_showing_a_password(endpoint: str) -> None:
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL=.*wanted http://host:port") as refusal:
        open_storage("s3://bucket/models", KEYS | {"AWS_ENDPOINT_URL": endpoint})
    assert "hidden" not in str(refusal.value)


def test_an_answer_of_s3_that_nobody_foresaw_is_told_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    error = b"<Error><Code>KeyTooLongError</Code><Message>Your key is too long</Message></Error>"
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(error)
    with saying(head + error) as port:
        for name, value in (KEYS | {"AWS_REGION": "here", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError) as refusal:
            read_tree("config", "s3://settings/mine.yaml")
    reason = f"http://127.0.0.1:{port} answered KeyTooLongError: Your key is too long"
    assert str(refusal.value).startswith(f"config s3://settings/mine.yaml: cannot be read ({reason}); give the path")


def test_what_s3_says_of_a_write_asks_for_no_other_file() -> None:
    error = b"<Error><Code>QuotaExceeded</Code><Message>The bucket is full</Message></Error>"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(error)
    with saying(head + error) as port:
        server = {"AWS_REGION": "here", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        with pytest.raises(UserError) as refusal:
            open_storage("s3://models/mine", KEYS | server).write("a/b", b"")
    told = f"storage s3://models/mine/a/b: http://127.0.0.1:{port} answered QuotaExceeded: The bucket is full; mend it"
    assert str(refusal.value).startswith(told)


def test_keys_are_listed_below_a_folder_and_writes_under_way_are_not(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert storage.keys() == []
    for key in ("b/2", "a/1/x", "a/10", "ab"):
        storage.write(key, b"")
    (tmp_path / "a" / ".half-written").mkdir()
    (tmp_path / "a" / ".half-written" / "10").write_bytes(b"ha")
    assert storage.keys() == ["a/1/x", "a/10", "ab", "b/2"]
    assert storage.keys("a") == ["a/1/x", "a/10"]
    assert storage.keys("none") == []
    assert [storage.has(key) for key in ("a/10", "a", "none")] == [True, False, False]


def test_of_scratch_only_what_a_killed_writer_left_long_ago_is_removed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a/production.json", b"{}")
    killed = (
        *("a/.production.json.k1ll3d_x.drtune/production.json", "a/c/.d.e.abcdefgh.drtune/d.e"),
        *("a/b/.x.abcdefgh.drtune/x.replaced/file", "a/d/.y.abcdefgh.drtune/y.replaced/file"),
    )
    half_done = "a/d/.y.abcdefgh.drtune/y/new"  # killed when one folder was aside, and the other not in its place
    others = (
        *("a/.git/config", "a/.venv/bin/python", "a/.metadata/x", "a/.own.settings/x", "a/.own.settings/own"),
        *("a/.kept.abcdefgh.drtune/kept.txt", "other/.x.abcdefgh.drtune/x", ".x.abcdefgh.drtune/x", "a/.x.abcdefgh/x"),
        "a/c/.alive.abcdefgh.drtune/alive",
    )
    for name in (*killed, half_done, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1000, 1000))
    os.utime(tmp_path / others[-1], (3000, 3000))  # its folder is old, what is written in it is not
    storage.clear_scratch("a", 2000)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/production.json", "a/d/y/new", *others}
    assert not (tmp_path / "a/b").exists()


def test_a_folder_that_was_emptied_is_gone_with_those_around_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    for key in ("a/b/c/file", "a/d/file"):
        storage.write(key, b"")
    storage.delete("a/b/c/file")
    assert not (tmp_path / "store/a/b").exists()
    storage.delete("a/d/file")
    assert list((tmp_path / "store").iterdir()) == []


def test_reading_what_is_not_there_is_told_apart_from_trouble(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        storage.read("absent")
    storage.write("file", b"")
    with pytest.raises(UserError, match="mend it or give another place"):
        storage.write("file/below", b"")


class Clock:
    """Seconds that pass when somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def test_a_server_out_of_reach_is_one_line_that_names_the_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    clock = Clock()
    patience = Patience(clock=clock, sleep=clock.pass_)
    storage = open_storage(
        "s3://bucket/models", KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}, patience=patience
    )
    with pytest.raises(UserError, match=rf"no answer from http://127.0.0.1:{port} \(NewConnectionError\)") as refusal:
        storage.read("v1.json")
    assert "for models/v1.json in bucket bucket, tried for 4 min 52 s; start the server" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert "some-secret" not in str(refusal.value)
    assert clock.now <= PATIENCE_SECONDS
    assert capsys.readouterr().err.count("asking again for 5 min") == 1


def test_a_web_server_that_is_not_s3_is_told_apart() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<p>hi!")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        storage = open_storage("s3://bucket/models", KEYS | {"AWS_ENDPOINT_URL": endpoint})
        with pytest.raises(UserError, match="is not S3"):
            storage.keys()
        thread.join()


ELSEWHERE = ["/tmp/x", "../x", "a/../../x", "a//x", "a/", "./x", "a/.", "..", "", "a\0b"]


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_key_that_leads_elsewhere_is_refused_by_every_store_before_anything_is_done(key: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not of the store")
    source = tmp_path / "x"
    for storage in (open_storage(str(tmp_path / "store")), open_storage("s3://bucket/run", KEYS)):
        for call in (
            lambda storage=storage: storage.upload(key, source),
            lambda storage=storage: storage.write(key, b""),
            lambda storage=storage: storage.create(key, b""),
            lambda storage=storage: storage.read(key),
            lambda storage=storage: storage.download(key, tmp_path / "fetched"),
            lambda storage=storage: storage.delete(key),
            lambda storage=storage: storage.sha256(key),
            *([lambda storage=storage: storage.keys(key)] if key else []),
        ):
            with pytest.raises(UserError, match="is no path below it") as refusal:
                call()
            assert repr(key) in str(refusal.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "not of the store"}


def listing(*names: str) -> str:
    """What a server answers to ListObjectsV2 (docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html)."""
    contents = "".join(
        f"<Contents><Key>{quote(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;900150983cd24fb0d6963f7d28e17f72&quot;</ETag><Size>3</Size></Contents>"
        for name in names
    )
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>run/</Prefix>'
        f"<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )


@pytest.fixture
def lying() -> Iterator[tuple[Web, dict[str, str]]]:
    """A server whose bucket `bucket` holds what a test says it does, and what S3 needs to reach it."""
    with Web() as web:
        yield web, KEYS | {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": web.url}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("run//tmp/x", "/tmp/x"),
        ("run/../../x", "../../x"),
        ("run/a/./b", "a/./b"),
        ("run/a\0b", "a\\x00b"),
        ("other/x", "other/x"),
        ("/etc/x", "/etc/x"),
    ],
)
def test_a_key_that_a_server_lists_never_becomes_a_path_elsewhere(
    lying: tuple[Web, dict[str, str]], name: str, shown: str, tmp_path: Path
) -> None:
    web, environment = lying
    web.answers = {"/bucket": (200, listing("run/good", name)), "/bucket/run/good": (200, "abc")}
    storage = open_storage("s3://bucket/run", environment)
    work = tmp_path / "a" / "b"
    with pytest.raises(UserError, match="below it") as refusal:
        Mirror(work / "out", storage).fetch()
    with pytest.raises(UserError, match="below it"), opened("mj", "s3://bucket/run", environment):
        pass
    with pytest.raises(UserError, match="below it"):
        fetch_model(open_storage("s3://bucket", environment), work / "model", "c1de")
    assert f"'{shown}'" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_read_is_told_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    storage.write("file", b"")
    with pytest.raises(UserError, match="Not a directory; mend it"):
        storage.keys("file")

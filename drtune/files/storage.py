"""Where published files live: a folder or an S3 bucket behind one small interface.

Keys are relative paths with forward slashes, and stay so: one that leads elsewhere, asked for or listed by a server, is
refused. Every write is whole or absent, on both kinds of store.
The secrets of S3 come from the environment, under the names that every S3 client knows.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar, cast
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import ParseError

from drtune.errors import AwayError, UserError
from drtune.files.local import check_key, files_below, replacing, sha256_file
from drtune.files.patience import OutOfPatienceError, Patience, PatientPool
from drtune.files.progress import spell
from drtune.files.scratch import clear_abandoned, remove_empty

if TYPE_CHECKING:
    from minio.error import S3Error

Result = TypeVar("Result")

AWS_ENDPOINT = "https://s3.amazonaws.com"

_PART = r"(?!\.{1,2}(/|$))[^/?#\x00-\x1f]+"
S3_URI = re.compile(rf"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9])(/(?P<prefix>{_PART}(/{_PART})*))?/?")
"""Without what servers and readers of URIs drop or resolve: empty parts, `.`, `..`, `?` and `#`."""
_MISTAKES = {
    "AuthorizationHeaderMalformed": "correct AWS_REGION",
    "RequestTimeTooSkewed": "set the clock of this machine",
}
_REFUSED_CREDENTIALS = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
# 412 when the key is taken; 409 when another conditional write of the same key is under way.
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


class Storage(Protocol):
    """Files below one URI.

    Every method raises UserError for what the user can mend (secrets, a missing bucket, a server out of reach, a full
    or read-only disk, a key that is no path below the URI) and OSError for the rest, each with one line. Reading a key
    that is not there raises FileNotFoundError.
    """

    uri: str
    """Without a slash at the end."""
    patience: Patience
    """With a server that is away or busy; a folder has no use for it."""

    def upload(self, key: str, source: Path) -> None:
        """Store a file under `key`, in place of what is there."""

    def write(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, in place of what is there."""

    def create(self, key: str, content: bytes) -> bool:
        """Store `content` under `key` unless something is there; of several callers at once exactly one gets True.

        None does when the answer to the one was lost: asked again, the server finds the key taken.
        """

    def read(self, key: str) -> bytes:
        """Return the content of a small file."""

    def download(self, key: str, target: Path) -> None:
        """Copy a file to the new local file `target`."""

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if there is something."""

    def sha256(self, key: str) -> str:
        """Return the digest of what the store holds, found by reading it back."""

    def written(self, folder: str = "") -> dict[str, float]:
        """When each key below `folder` was written, at any depth, in seconds since the epoch; sorted by key.

        Empty when there is no such folder.
        """

    def keys(self, folder: str = "") -> list[str]:
        """All keys below `folder`, at any depth, sorted."""
        return list(self.written(folder))

    def clear_scratch(self, folder: str, before: float) -> None:
        """Remove what killed writers left half written below `folder`, untouched since `before`, as in `written`.

        S3 shows no such thing: parts of uploads expire by the rules of the bucket.
        """


def open_storage(uri: str, environment: Mapping[str, str] = os.environ, *, patience: Patience | None = None) -> Storage:
    """Open the store at `file:///absolute/folder`, a bare path, or `s3://bucket/prefix`.

    S3 reads from `environment`: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (optional), AWS_REGION
    (optional) and AWS_ENDPOINT_URL (default: AWS). The server must honour `If-None-Match: *`, as AWS, SeaweedFS, MinIO
    and Ceph do. Nothing is contacted yet. A server that is away or busy is asked again, with `patience`.

    Raises:
        UserError: the URI is of another kind, or a variable is missing.
    """
    if found := S3_URI.fullmatch(uri):
        return _S3Storage(found["bucket"], found["prefix"] or "", environment, patience or Patience())
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("unreadable:")
    if not parts.scheme:
        return _FileStorage(Path(uri))
    whole = not {"?", "#"} & set(uri)  # else a part of it would be dropped
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and whole:
        return _FileStorage(Path(unquote(parts.path)))
    raise UserError(
        f"storage {uri!r}: wanted a folder, file:///absolute/folder or s3://bucket/prefix, with no ?, #, `.`, `..` or "
        "empty part in it"
    )


def check_writable(storage: Storage) -> None:
    """Write, read and delete a small file, so that what forbids one of them is told now and not at the end.

    Raises:
        UserError: the store cannot be reached or used.
        OSError: as for any other call, or what was written is not what is read.
    """
    key, content = f"probe-{uuid.uuid4().hex}", b"written to see whether it can be"
    storage.write(key, content)
    if storage.read(key) != content:
        raise OSError(f"{storage.uri}/{key}: something else is read than was written")
    storage.delete(key)


class _FileStorage(Storage):
    """A folder; it is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()
        self.patience = Patience()

    def upload(self, key: str, source: Path) -> None:
        with self._explained(path := self._path(key)), replacing(path) as written:
            shutil.copyfile(source, written)

    def write(self, key: str, content: bytes) -> None:
        with self._explained(path := self._path(key)), replacing(path) as written:
            written.write_bytes(content)

    def create(self, key: str, content: bytes) -> bool:
        with self._explained(path := self._path(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as scratch:
                written = Path(scratch) / path.name
                written.write_bytes(content)
                try:
                    # Unlike a rename, a link fails when the name is taken; unlike O_EXCL, the content is there at once.
                    path.hardlink_to(written)
                except FileExistsError:
                    return False
        return True

    def read(self, key: str) -> bytes:
        with self._explained(path := self._path(key)):
            return path.read_bytes()

    def download(self, key: str, target: Path) -> None:
        with self._explained(f"{(path := self._path(key))} to {target}"):
            shutil.copyfile(path, target)

    def delete(self, key: str) -> None:
        with self._explained(path := self._path(key)):
            path.unlink(missing_ok=True)
        remove_empty(path.parent, self.root)

    def sha256(self, key: str) -> str:
        with self._explained(path := self._path(key)):
            return sha256_file(path)

    def written(self, folder: str = "") -> dict[str, float]:
        top = self._path(folder) if folder else self.root
        found = {}
        with self._explained(top):
            for path in files_below(top):
                key = path.relative_to(self.root)
                with suppress(FileNotFoundError):  # removed since it was listed
                    if not any(map(_is_scratch, key.parts[:-1])):
                        found[key.as_posix()] = path.lstat().st_mtime
        return dict(sorted(found.items()))

    def clear_scratch(self, folder: str, before: float) -> None:
        clear_abandoned(self._path(folder), before)

    def _path(self, key: str) -> Path:
        return self.root / check_key(self.uri, key)

    @contextmanager
    def _explained(self, subject: str | Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"storage {subject}: {error.strerror}; mend it or give another place") from None


def _is_scratch(folder_name: str) -> bool:
    """Whether a write may be under way in a folder of that name."""
    return folder_name.startswith(".")


class _S3Storage(Storage):
    """A prefix in a bucket of any S3 server."""

    def __init__(self, bucket: str, prefix: str, environment: Mapping[str, str], patience: Patience) -> None:
        from minio import Minio

        self.bucket, self.patience = bucket, patience
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environment.get(name)]
        if missing:
            raise UserError(f"storage {self.uri}: {' and '.join(missing)} not set; export the keys of the S3 server")
        self.endpoint, host, secure = _endpoint(environment.get("AWS_ENDPOINT_URL") or AWS_ENDPOINT)
        try:
            self._client = Minio(
                host,
                access_key=environment["AWS_ACCESS_KEY_ID"],
                secret_key=environment["AWS_SECRET_ACCESS_KEY"],
                session_token=environment.get("AWS_SESSION_TOKEN") or None,
                region=environment.get("AWS_REGION") or None,
                secure=secure,
                http_client=PatientPool(patience),
            )
        except ValueError as error:
            raise UserError(
                f"storage {self.uri}: {error}; correct AWS_ENDPOINT_URL={self.endpoint} or AWS_REGION"
            ) from None

    def upload(self, key: str, source: Path) -> None:
        from minio.error import S3Error

        with self._explained(key):
            try:
                self._client.fput_object(self.bucket, self._name(key), str(source))
            except S3Error as error:
                if error.code != "NoSuchUpload":
                    raise
                # The answer to the completion was lost, and the upload, asked for again, was over: send it once more.
                self._client.fput_object(self.bucket, self._name(key), str(source))

    def write(self, key: str, content: bytes) -> None:
        self._put(key, content, {})

    def create(self, key: str, content: bytes) -> bool:
        return self._put(key, content, {"If-None-Match": "*"})

    def read(self, key: str) -> bytes:
        return self._streamed(key, lambda stream: stream.read())

    def download(self, key: str, target: Path) -> None:
        def save(stream: BinaryIO) -> None:
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file)

        self._streamed(key, save)

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.remove_object(self.bucket, self._name(key))

    def sha256(self, key: str) -> str:
        def digest(stream: BinaryIO) -> str:
            found = hashlib.sha256()
            while block := stream.read(1 << 20):
                found.update(block)
            return found.hexdigest()

        return self._streamed(key, digest)

    def written(self, folder: str = "") -> dict[str, float]:
        prefix = f"{self._name(folder)}/" if folder else self.prefix
        with self._explained(folder):
            objects = self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
            return {
                self._key(cast(str, item.object_name), prefix): cast(datetime, item.last_modified).timestamp()
                for item in sorted(objects, key=lambda item: cast(str, item.object_name))
                if not item.is_dir  # what consoles make as a "folder": an empty object whose name ends in a slash
            }

    def clear_scratch(self, _folder: str, _before: float) -> None:
        pass

    def _name(self, key: str) -> str:
        """What the bucket calls it."""
        return self.prefix + check_key(self.uri, key)

    def _key(self, name: str, asked: str) -> str:
        """`_name` undone; the name is what the server lists when it is asked for a prefix."""
        if not name.startswith(asked):
            raise UserError(f"storage {self.uri}: {self.endpoint} lists {name!r}, which is not below it; use another")
        return check_key(self.uri, name.removeprefix(self.prefix))

    def _put(self, key: str, content: bytes, headers: dict[str, str]) -> bool:
        """Store a small object in one request; False when a condition in `headers` forbids it."""
        from minio.error import S3Error

        with self._explained(key):
            try:
                # The public put_object turns every header into metadata, so a condition has to go in one floor below.
                self._client._put_object(self.bucket, self._name(key), content, {**headers})
            except S3Error as error:
                if error.code in _TAKEN:
                    return False
                raise
        return True

    def _streamed(self, key: str, use: Callable[[BinaryIO], Result]) -> Result:
        """What `use` makes of an object, from its beginning again when the stream breaks."""

        def once() -> Result:
            response = self._client.get_object(self.bucket, self._name(key))
            try:
                return use(cast(BinaryIO, response))
            finally:
                response.close()
                response.release_conn()

        with self._explained(key):
            return self.patience.ask(once)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn every failure of S3 into one line without secrets."""
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError, ResponseError

        try:
            yield
        except S3Error as error:
            raise self._explain(key, error) from None
        except (MinioException, ParseError):
            raise UserError(
                f"storage {self.uri}: what answers at {self.endpoint} is not S3; correct AWS_ENDPOINT_URL"
            ) from None
        except HTTPError as error:
            kind, reason, tried = UserError, error, ""
            if isinstance(error, OutOfPatienceError):
                kind, reason, tried = AwayError, error.reason, f", tried for {spell(error.seconds)}"
            why = str(reason) if isinstance(reason, ResponseError) else type(reason).__name__
            raise kind(
                f"storage {self.uri}: no answer from {self.endpoint} ({why}) for "
                f"{self.prefix}{key} in bucket {self.bucket}{tried}; start the server or correct AWS_ENDPOINT_URL"
            ) from None

    def _explain(self, key: str, error: S3Error) -> Exception:
        if error.code == "NoSuchKey":
            return FileNotFoundError(f"{self.uri}/{key}: not there")
        if error.code == "NoSuchBucket":
            return UserError(
                f"storage {self.uri}: no bucket {self.bucket} at {self.endpoint}; create it or name another"
            )
        if error.code in _REFUSED_CREDENTIALS:
            return UserError(
                f"storage {self.uri}: {self.endpoint} refuses the credentials ({error.code}); correct "
                f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or have them allowed to use the bucket"
            )
        if fix := _MISTAKES.get(error.code or ""):
            return UserError(f"storage {self.uri}: {self.endpoint} answered {error.code}: {error.message}; {fix}")
        return OSError(f"{self.uri}/{key}: {self.endpoint} answered {error.code}: {error.message}")


def _endpoint(url: str) -> tuple[str, str, bool]:
    """Split an endpoint into its URL to show to people, its host with port, and whether it is encrypted."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read here, and refused if there can be none such
    except ValueError as error:
        raise UserError(f"AWS_ENDPOINT_URL: {error}; wanted http://host:port or https://host:port") from None
    host = parts.netloc.rpartition("@")[2]
    is_host = re.fullmatch(r"[\w.:\[\]-]+", parts.netloc)  # without a name and a password before it
    if parts.scheme not in ("http", "https") or not is_host or parts.path.strip("/"):
        shown = parts._replace(netloc=host).geturl()
        raise UserError(f"AWS_ENDPOINT_URL={shown}: wanted http://host:port or https://host:port, and nothing else")
    return f"{parts.scheme}://{host}", host, parts.scheme == "https"

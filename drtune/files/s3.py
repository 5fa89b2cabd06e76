"""A prefix in a bucket of an S3 server, as `drtune.files.storage` opens it. Nothing else knows minio."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from drtune.errors import AwayError, UnusableFileError, UserError
from drtune.files.local import check_key
from drtune.files.patience import OutOfPatienceError, Patience, patient_pool
from drtune.files.progress import spell

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


class S3Storage:
    """A `Storage` at a prefix in a bucket."""

    def __init__(self, bucket: str, prefix: str, environment: Mapping[str, str], patience: Patience) -> None:
        from minio import Minio

        self.bucket, self.patience = bucket, patience
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environment.get(name)]
        if missing:
            raise UserError(f"storage {self.uri}: {' and '.join(missing)} not set; export the keys of the S3 server")
        self.endpoint, host, secure = _endpoint(environment.get("AWS_ENDPOINT_URL") or AWS_ENDPOINT)
        pool = patient_pool(self.endpoint, environment, patience)
        try:
            self._client = Minio(
                host,
                access_key=environment["AWS_ACCESS_KEY_ID"],
                secret_key=environment["AWS_SECRET_ACCESS_KEY"],
                session_token=environment.get("AWS_SESSION_TOKEN") or None,
                region=environment.get("AWS_REGION") or None,
                secure=secure,
                http_client=pool,
            )
        except ValueError as error:
            raise UserError(
                f"storage {self.uri}: {error}; correct AWS_ENDPOINT_URL={self.endpoint} or AWS_REGION"
            ) from None

    def upload(self, key: str, source: Path) -> None:
        """As `Storage`."""
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
        """As `Storage`."""
        self._put(key, content, {})

    def create(self, key: str, content: bytes) -> bool:
        """As `Storage`."""
        return self._put(key, content, {"If-None-Match": "*"})

    def has(self, key: str) -> bool:
        """As `Storage`."""
        try:
            with self._explained(key, reading=True):
                self._client.stat_object(self.bucket, self._name(key))
        except FileNotFoundError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """As `Storage`."""
        return self._streamed(key, lambda stream: stream.read())

    def download(self, key: str, target: Path) -> None:
        """As `Storage`."""

        def save(stream: BufferedIOBase) -> None:
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file)

        self._streamed(key, save)

    def delete(self, key: str) -> None:
        """As `Storage`."""
        with self._explained(key):
            self._client.remove_object(self.bucket, self._name(key))

    def sha256(self, key: str) -> str:
        """As `Storage`."""
        return self._streamed(key, lambda stream: hashlib.file_digest(stream, "sha256").hexdigest())

    def written(self, folder: str = "") -> dict[str, float]:
        """As `Storage`."""
        prefix = f"{self._name(folder)}/" if folder else self.prefix
        with self._explained(folder):
            objects = self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
            return {
                self._key(cast(str, item.object_name), prefix): cast(datetime, item.last_modified).timestamp()
                for item in sorted(objects, key=lambda item: cast(str, item.object_name))
                if not item.is_dir  # what consoles make as a "folder": an empty object whose name ends in a slash
            }

    def keys(self, folder: str = "") -> list[str]:
        """As `Storage`."""
        return list(self.written(folder))

    def clear_scratch(self, _folder: str, _before: float) -> None:
        """As `Storage`."""

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

    def _streamed(self, key: str, use: Callable[[BufferedIOBase], Result]) -> Result:
        """What `use` makes of an object, from its beginning again when the stream breaks."""

        def once() -> Result:
            response = self._client.get_object(self.bucket, self._name(key))
            try:
                return use(cast(BufferedIOBase, response))
            finally:
                response.close()
                response.release_conn()

        with self._explained(key, reading=True):
            return self.patience.ask(once)

    @contextmanager
    def _explained(self, key: str, *, reading: bool = False) -> Iterator[None]:
        """Turn every failure of S3 into one line without secrets; what cannot be read is a file that somebody named."""
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError, ProxyError, ResponseError, SSLError

        try:
            yield
        except S3Error as error:
            raise self._explain(key, error, reading=reading) from None
        except (MinioException, ParseError):
            raise UserError(
                f"storage {self.uri}: what answers at {self.endpoint} is not S3; correct AWS_ENDPOINT_URL"
            ) from None
        except HTTPError as error:
            kind, reason, tried = UserError, error, ""
            if isinstance(error, OutOfPatienceError):
                kind, reason, tried = AwayError, error.reason, f", tried for {spell(error.seconds)}"
            why = str(reason) if isinstance(reason, ResponseError) else type(reason).__name__
            fix = "start the server or correct AWS_ENDPOINT_URL"
            if isinstance(reason, SSLError):
                fix = "AWS_CA_BUNDLE names a file with the certificates to trust"
            elif isinstance(reason, ProxyError):
                fix = "correct HTTPS_PROXY, or name the server in NO_PROXY"
            raise kind(
                f"storage {self.uri}: no answer from {self.endpoint} ({why}) for "
                f"{self.prefix}{key} in bucket {self.bucket}{tried}; {fix}"
            ) from None

    def _explain(self, key: str, error: S3Error, *, reading: bool) -> Exception:
        if error.code == "NoSuchKey":
            return FileNotFoundError(errno.ENOENT, "not there", f"{self.uri}/{key}")
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
        reason = f"{self.endpoint} answered {error.code}: {error.message}"
        if reading:
            return UnusableFileError(errno.EIO, reason, f"{self.uri}/{key}")
        return UserError(f"storage {self.uri}/{key}".rstrip("/") + f": {reason}; mend it or give another place")


def _endpoint(url: str) -> tuple[str, str, bool]:
    """Split an endpoint into its URL to show to people, its host with port, and whether it is encrypted."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read here, and refused if there can be none such
    except ValueError:  # whose words could hold a password
        raise UserError("AWS_ENDPOINT_URL: is no URL with a possible port; wanted http://host:port") from None
    host = parts.netloc.rpartition("@")[2]
    is_host = re.fullmatch(r"[\w.:\[\]-]+", parts.netloc)  # without a name and a password before it
    if parts.scheme not in ("http", "https") or not is_host or parts.path.strip("/"):
        shown = parts._replace(netloc=host).geturl()
        raise UserError(f"AWS_ENDPOINT_URL={shown}: wanted http://host:port or https://host:port, and nothing else")
    return f"{parts.scheme}://{host}", host, parts.scheme == "https"

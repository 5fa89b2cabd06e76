"""A real S3 server of a test's own: SeaweedFS in one process, on free ports."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from drtune.errors import UserError
from drtune.files.patience import Patience
from drtune.files.storage import open_storage

BUCKET = "models"
SERVICES = ("master", "volume", "filer", "s3", "admin")
DEADLINE_SECONDS = 60.0


class S3Server:
    """Starts on entry, ends on exit; `kill` and `start` in between keep data and address."""

    def __init__(self) -> None:
        options = [f"{service}.port{kind}" for service in SERVICES for kind in ("", ".grpc")]
        self.ports = dict(zip(options, free_ports(len(options)), strict=True))
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3.port']}",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
        }

    def __enter__(self) -> S3Server:
        self._scratch = tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True)
        self.folder = Path(self._scratch.name)
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        self._scratch.cleanup()
        for port in self.ports.values():
            for socket_left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                socket_left.unlink()

    def start(self) -> None:
        options = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": BUCKET,
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **self.ports,
        }
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [weed, "mini", *(f"-{name}={value}" for name, value in options.items())],
                env=os.environ | self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_ready()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _wait_until_ready(self) -> None:
        """Wait until something can be written: after a restart that comes seconds later than the first answer."""
        storage = open_storage(f"s3://{BUCKET}", self.environment, patience=Patience(0.0))
        give_up = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < give_up and self.process.poll() is None:
            with suppress(UserError, OSError):
                return storage.write("ready", b"yes")
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the S3 server did not start: {(self.folder / 'log').read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on, below those that the system gives to outgoing connections."""
    candidates = random.SystemRandom().sample(range(20_000, 32_000), 1000)
    return list(islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

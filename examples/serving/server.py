"""Serve a published version by KServe's V1 protocol: diffusers, and a web server of Python's own.

    python server.py --name miniature-symmetry --registry s3://drtune/registry
    curl localhost:8080/v1/models/miniature-symmetry:predict -d '{"instances": [{"prompt": "a red circle", "seed": 3}]}'

The answer holds a PNG for each instance, as {"predictions": [{"b64": "..."}]}: as the model's evaluation draws it, with
the same steps and guidance, so that its report says what a user gets. One picture is drawn at a time; replicas do more.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from drtune.errors import UserError, out_of_memory
from drtune.files.images import to_pil
from drtune.models.drawing import draw
from drtune.models.loading import DEVICE, load_base, quiet_libraries
from drtune.models.miniature.cores import is_small, take_one_thread
from drtune.models.tuned import open_tuned, put_on
from drtune.publishing.registry import Registry

MOST_INSTANCES = 16
LARGEST_BODY = 2**20


class Model:
    """A published version on its base."""

    def __init__(self, registry: str, name: str, version: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            self.entry = Registry(registry).pull(name, version, folder)
            tuned, config = open_tuned(folder)
            quiet_libraries()
            if is_small(config.base_model):
                take_one_thread()
            self.base = load_base(
                config.base_model,
                config.base_revision,
                precision=config.compute.precision,
                height=config.height,
                width=config.width,
            )
            self.base.pipeline.to(DEVICE)
            put_on(self.base, folder, tuned)
        self.sampler = config.evaluation.sampler
        self.negative = self.base.encode_negative(self.sampler.negative_prompt)
        self._turn = threading.Lock()

    def draw(self, prompt: str, seed: int) -> bytes:
        """The picture as a PNG; the same prompt and seed give the same one."""
        with self._turn:
            images_BCHW = draw(
                self.base,
                self.base.encode([prompt]),
                self.negative,
                [seed],
                steps=self.sampler.steps,
                guidance_scale=self.sampler.guidance_scale,
                base_steps=self.sampler.base_steps,
            )
        written = io.BytesIO()
        to_pil(images_BCHW)[0].save(written, "PNG")
        return written.getvalue()


def instances_of(body: bytes) -> list[tuple[str, int]]:
    """Prompt and seed of each picture that a request asks for. Raises UserError, which says what is wrong with it."""
    try:
        instances = json.loads(body)["instances"]
    except (ValueError, KeyError, TypeError):
        raise UserError('wanted {"instances": [{"prompt": "...", "seed": 0}]}') from None
    if not isinstance(instances, list) or not 1 <= len(instances) <= MOST_INSTANCES:
        raise UserError(f"instances: wanted a list of 1 to {MOST_INSTANCES}")
    asked = []
    for number, instance in enumerate(instances):
        known = instance if isinstance(instance, dict) else {}
        prompt, seed = known.get("prompt"), known.get("seed", 0)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"instances[{number}].prompt: wanted a text")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise UserError(f"instances[{number}].seed={seed!r}: wanted a whole number from 0")
        if unknown := sorted(known.keys() - {"prompt", "seed"}):
            raise UserError(f"instances[{number}].{unknown[0]}: not known; there are prompt and seed")
        asked.append((prompt, seed))
    return asked


class Server(ThreadingHTTPServer):
    """Alive at once, ready when the model is loaded."""

    daemon_threads = True

    def __init__(self, port: int, name: str) -> None:
        super().__init__(("", port), Handler)
        self.name, self.model = name, None
        self.failure: Exception | None = None

    def load(self, make: Callable[[], Model]) -> None:
        """Load the model beside what is asked meanwhile; whatever is in its way ends the server."""
        try:
            model = make()
        except Exception as error:
            self.failure = out_of_memory(error) or error
            self.shutdown()
        else:
            self.model: Model | None = model
            print(f"serving {model.entry.name} {model.entry.version} at port {self.server_port}", flush=True)


class Handler(BaseHTTPRequestHandler):
    """The routes of KServe's V1 protocol (python/kserve/kserve/protocol/rest/v1_endpoints.py of kserve/kserve)."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Whether it is alive, and whether the model is ready."""
        match self.path:
            case "/":
                self._send(200, {"status": "alive"})
            case "/v1/models":
                self._send(200, {"models": [self.server.name]})
            case path if path == f"/v1/models/{self.server.name}":
                ready = self.server.model is not None
                told = {"name": self.server.name, "ready": True}
                self._send(200 if ready else 503, told if ready else self._not_ready())
            case _:
                self._send(404, {"error": f"{self.path}: no such model; this is {self.server.name}"})

    def do_POST(self) -> None:
        """Pictures."""
        stated = self.headers.get("Content-Length", "")
        if not stated.isdecimal() or len(stated) > 20 or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the next request begins is not known
            return self._send(411, {"error": "wanted a Content-Length in bytes"})
        if (length := int(stated)) > LARGEST_BODY:
            self.close_connection = True
            return self._send(413, {"error": f"request of {length} bytes: at most {LARGEST_BODY}"})
        body, model = self.rfile.read(length), self.server.model
        if self.path != f"/v1/models/{self.server.name}:predict":
            return self._send(404, {"error": f"{self.path}: no such model; this is {self.server.name}"})
        if model is None:
            return self._send(503, self._not_ready())
        try:
            drawn = [model.draw(prompt, seed) for prompt, seed in instances_of(body)]
        except UserError as error:
            return self._send(400, {"error": str(error)})
        except Exception as error:
            traceback.print_exc()
            return self._send(500, {"error": f"{type(error).__name__}: no picture was drawn; the log says why"})
        return self._send(200, {"predictions": [{"b64": base64.b64encode(png).decode()} for png in drawn]})

    def _not_ready(self) -> dict[str, str]:
        return {"error": f"Model with name {self.server.name} is not ready."}

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Probes come every few seconds, and are no news."""
        if self.command == "POST":
            super().log_request(code, size)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", required=True, help="of the published model")
    parser.add_argument("--version", default="production", help="such as v3; by default the one in production")
    parser.add_argument("--registry", default="runs/registry", help="a folder or s3://bucket/prefix")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any that is free")
    given = parser.parse_args()
    server = Server(given.port, given.name)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    make = partial(Model, given.registry, given.name, given.version)
    threading.Thread(target=server.load, args=(make,), daemon=True).start()
    print(f"listening at port {server.server_port}", flush=True)
    server.serve_forever()
    if isinstance(server.failure, UserError):
        print(f"error: {server.failure}", file=sys.stderr)
        sys.exit(UserError.exit_code)
    if server.failure:
        raise server.failure


if __name__ == "__main__":
    main()

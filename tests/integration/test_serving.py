"""examples/serving as a plain process: a published version answers by KServe's V1 protocol, on the CPU."""

from __future__ import annotations

import base64
import io
import json
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import kubernetes_validate
import numpy as np
import pytest
import yaml
from PIL import Image

from drtune.contracts import EvaluationReport, TunedModel
from drtune.models.sample_set import SampleSettings, write_sample_set
from drtune.publishing.registry import Registry
from tests.folders import make_folders
from tests.tuned import make_tuned

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving"
MODEL = "/v1/models/mine"


class Service:
    """The server of a registry's model, and what it answers."""

    def __init__(self, registry: Path, *arguments: str) -> None:
        command = [sys.executable, "-u", EXAMPLE / "server.py", "--name", "mine", "--registry", str(registry)]
        command += ["--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().split()[-1]

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", data)) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def ends(self) -> tuple[int, str]:
        self.process.terminate()
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a version of the miniature, whose adapter is random."""
    root = tmp_path_factory.mktemp("served")
    made, model = make_folders(root), make_tuned(root / "tuned", "miniature", "evaluation.sampler.steps=3")
    made.report_on(EvaluationReport.load(made.report).model_copy(update={"model": TunedModel.load(model)}))
    Registry(str(root / "registry")).publish("mine", model, made.report, made.decision)
    return root / "registry"


@pytest.fixture(scope="module")
def service(registry: Path) -> Iterator[Service]:
    started = Service(registry)
    try:
        assert started.ask("/") == (200, {"status": "alive"})  # whether the model is loaded or not
        give_up = time.monotonic() + 120
        while (answer := started.ask(MODEL))[0] != 200:
            assert answer == (503, {"error": "Model with name mine is not ready."})
            assert time.monotonic() < give_up
            time.sleep(0.2)
        assert answer == (200, {"name": "mine", "ready": True})
        assert started.ask("/v1/models") == (200, {"models": ["mine"]})
        yield started
    finally:
        code, errors = started.ends()
    assert (code, "Traceback" in errors) == (0, False)


def test_a_request_is_answered_with_the_pictures_that_the_evaluation_draws(
    service: Service, registry: Path, tmp_path: Path
) -> None:
    prompts = ["a red circle", "a blue star"]
    asked = [{"prompt": prompt, "seed": 3} for prompt in prompts]
    status, answer = service.ask(f"{MODEL}:predict", {"instances": [*asked, {"prompt": prompts[0]}]})
    assert status == 200
    *drawn, other = [Image.open(io.BytesIO(base64.b64decode(one["b64"]))) for one in answer["predictions"]]
    Registry(str(registry)).pull("mine", "production", tmp_path / "model")
    there = write_sample_set(prompts, tmp_path / "out", SampleSettings(seed=3), model_folder=tmp_path / "model")
    for picture, sample in zip(drawn, there.pictures, strict=True):
        with Image.open(tmp_path / "out" / sample.file) as wanted:
            assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    assert not np.array_equal(np.asarray(drawn[0]), np.asarray(other))  # of another seed


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"no JSON", 'wanted {"instances": [{"prompt": "...", "seed": 0}]}'),
        ({"instances": []}, "instances: wanted a list of 1 to 16"),
        ({"instances": [{"prompt": " "}]}, "instances[0].prompt: wanted a text"),
        ({"instances": [{"prompt": "a", "seed": 1.5}]}, "instances[0].seed=1.5: wanted a whole number from 0"),
        ({"instances": [{"prompt": "a", "steps": 9}]}, "instances[0].steps: not known; there are prompt and seed"),
    ],
)
def test_what_is_wrong_with_a_request_is_its_answer(service: Service, body: Any, error: str) -> None:
    assert service.ask(f"{MODEL}:predict", body) == (400, {"error": error})


@pytest.mark.parametrize("header", [b"Content-Length: -1", b"Content-Length: x", b"Transfer-Encoding: chunked"])
def test_a_request_without_a_length_is_refused_and_its_connection_closed(service: Service, header: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(service.port)), timeout=60) as connection:
        connection.sendall(b"POST %s:predict HTTP/1.1\r\nHost: here\r\n%s\r\n\r\n" % (MODEL.encode(), header))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert answer.endswith(b'{"error": "wanted a Content-Length in bytes"}')


def test_another_model_is_not_there(service: Service) -> None:
    asked = {"instances": [{"prompt": "a"}]}
    wanted = 404, {"error": "/v1/models/other:predict: no such model; this is mine"}
    assert service.ask("/v1/models/other:predict", asked) == wanted
    assert service.ask("/v1/models/other")[0] == 404


def test_it_ends_whatever_is_in_the_way_of_loading() -> None:
    def make() -> Any:
        raise RuntimeError("CUDA error: no device")

    server = runpy.run_path(str(EXAMPLE / "server.py"))["Server"](0, "mine")
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    server.load(make)
    serving.join(timeout=60)
    assert not serving.is_alive()
    assert str(server.failure) == "CUDA error: no device"
    server.server_close()


@pytest.mark.slow
def test_without_the_version_it_ends_with_one_line(registry: Path) -> None:
    started = Service(registry, "--version", "v7")
    _, errors = started.process.communicate(timeout=120)
    assert started.process.returncode == 2
    assert errors.splitlines()[-1].endswith("'mine' has no version v7; its versions are v1")


def test_the_manifest_runs_it_in_the_trainer_image() -> None:
    """KServe's predictor is a pod with fields of its own (PredictorSpec in pkg/apis/serving/v1beta1/predictor.go)."""
    service = yaml.safe_load((EXAMPLE / "inference-service.yaml").read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    pod = {name: value for name, value in service["spec"]["predictor"].items() if name != "minReplicas"}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod}
    kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    [container] = pod["containers"]
    name = service["metadata"]["name"]
    assert container["name"] == "kserve-container"
    assert container["args"][:2] == ["--name", name]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {
        f"/v1/models/{name}"
    }
    made_of = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text(encoding="utf-8"))["configMapGenerator"]
    assert made_of == [{"name": pod["volumes"][0]["configMap"]["name"], "files": ["server.py"]}]

"""Runs whose folder is kept in S3: a run whose machine is gone goes on on another, and ends bit for bit the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drtune.config import Config, load_config
from drtune.contracts import CONFIG, TunedModel
from drtune.files.storage import Storage, open_storage
from drtune.training.mirror import SHARDS, Mirror
from tests.s3 import BUCKET, S3Server

if TYPE_CHECKING:
    from tests.pipelines import FolderOf

ROOT = Path(__file__).parents[2]
FEW_STEPS = ["batch_size=4", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "sample_every=100"]


@pytest.fixture(scope="module")
def base(folder_of: FolderOf) -> Path:
    return folder_of("sdxl")


def config_of(base: Path, *overrides: str) -> Config:
    return load_config(None, [*FEW_STEPS, f"base_model={base}", "rewards.brightness=1.0", *overrides])


class Address:
    """Where one run is asked and answered, in a store of the test's own."""

    def __init__(self, s3: S3Server, name: str, config: Config, prompts: Path) -> None:
        self.uri, self.environment = f"s3://{BUCKET}/{name}", {**os.environ, **s3.environment, "OMP_NUM_THREADS": "1"}
        self.storage: Storage = open_storage(self.uri, s3.environment)
        self.storage.write(f"request/{CONFIG}", config.to_yaml().encode())
        for path in prompts.iterdir():
            self.storage.upload(f"request/prompts/{path.name}", path)

    def node(self, work: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
        """One node, as a pod starts it."""
        return subprocess.Popen(
            [sys.executable, "-m", "drtune.training.node", self.uri, f"--work={work}", *options],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def model(self) -> TunedModel:
        return TunedModel.read(self.storage.read("model/manifest.json"), self.storage.uri, fix="")

    def checkpoints(self) -> list[int]:
        return [int(key.split("-")[1]) for key in self.storage.keys("model/checkpoints")]


def lose(node: subprocess.Popen[str], number: signal.Signals) -> None:
    """Tell a node to end, or have it gone at once with all its processes, as a machine without power is."""
    processes = [node.pid]
    if number == signal.SIGKILL:
        for process in processes:
            children = Path(f"/proc/{process}/task").glob("*/children")
            processes += [int(child) for path in children for child in path.read_text().split()]
    for process in processes:
        os.kill(process, number)


def until(found: Callable[[], object], node: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 120
    while not found():
        assert node.poll() is None, node.communicate()[0]
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unbroken(base: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    """What ten updates make without a break, without a mirror, and in one process."""
    from drtune.training.trainer import train

    return train(config_of(base, "steps=10", "checkpoint_every=2"), prompts, tmp_path_factory.mktemp("run") / "model")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_node_that_is_lost_with_its_disk_goes_on_from_s3_bit_for_bit(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path, unbroken: TunedModel, number: signal.Signals
) -> None:
    config = config_of(base, "steps=10", "checkpoint_every=2")
    address = Address(s3_server, f"lost-{number.name}", config, prompts)
    first = address.node(tmp_path / "first")
    until(lambda: address.checkpoints(), first)
    lose(first, number)
    output, _ = first.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert first.returncode == 143, output
    assert "manifest.json" not in str(address.storage.keys("model"))
    newest = max(address.checkpoints())
    assert newest < 10
    shutil.rmtree(tmp_path / "first")

    second = address.node(tmp_path / "second")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert address.model() == unbroken
    metrics = [json.loads(line) for line in address.storage.read("model/metrics.jsonl").splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, 11))
    assert sorted(address.checkpoints()) == sorted(  # the old ones are gone there too
        int(path.name.split("-")[1]) for path in (tmp_path / "second" / "model" / "checkpoints").iterdir()
    )


@pytest.mark.slow
def test_a_finished_training_is_not_done_again(s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path) -> None:
    address = Address(s3_server, "finished", config_of(base, "steps=1"), prompts)
    for work in ("one", "two"):
        node = address.node(tmp_path / work, "--processes=2")
        output, _ = node.communicate(timeout=120)
        assert node.returncode == 0, output
    assert "1/1" not in output
    assert address.model() == TunedModel.load(tmp_path / "two" / "model")


def two_nodes(address: Address, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Two nodes that share no disk, with the variables of a Master and a Worker."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    cluster = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "PET_NNODES": "2", "WORLD_SIZE": "2"}
    return [
        address.node(tmp_path / f"node-{rank}", PET_NODE_RANK=str(rank), RANK=str(rank), **cluster) for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "number"), [(0, signal.SIGKILL), (1, signal.SIGTERM)])
def test_nodes_that_lose_another_ask_to_be_started_again_and_go_on(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path, lost: int, number: signal.Signals
) -> None:
    address = Address(
        s3_server, f"two-{lost}-{number.name}", config_of(base, "steps=12", "checkpoint_every=2"), prompts
    )
    nodes = two_nodes(address, tmp_path)
    until(lambda: address.checkpoints(), nodes[0])
    lose(nodes[lost], number)
    outputs = [node.communicate(timeout=100)[0] for node in nodes]
    codes = [node.returncode for node in nodes]
    codes[lost] = codes[lost] if codes[lost] >= 0 else 128 - codes[lost]
    assert all(code > 127 for code in codes), (codes, outputs)

    again = two_nodes(address, tmp_path / "again")
    outputs = [node.communicate(timeout=100)[0] for node in again]
    assert [node.returncode for node in again] == [0, 0], outputs
    assert address.model().step == 12


@pytest.mark.slow
def test_a_mistake_of_the_user_ends_a_node_for_good(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path
) -> None:
    address = Address(s3_server, "mistake", config_of(base, "lora.targets=[nothing]"), prompts)
    node = address.node(tmp_path / "work", "--processes=2")
    output, _ = node.communicate(timeout=100)
    assert node.returncode == 2, output
    assert output.splitlines()[-2].startswith("error: lora.targets")
    assert output.splitlines()[-1].startswith("rank ")
    assert output.splitlines()[-1].endswith(" ended with exit code 2")


def elastic_nodes(address: Address, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Two nodes with the variables of Workers only (training-operator v1.9 pkg/controller.v1/pytorch/elastic.go).

    A cluster that lets torchrun restart processes in place, as elasticPolicy.maxRestarts does, is not listened to.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    rendezvous = {"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": endpoint, "PET_RDZV_ID": "drtune-a"}
    shape = {"PET_NNODES": "2:2", "PET_NPROC_PER_NODE": "1", "PET_MAX_RESTARTS": "20"}
    return [address.node(tmp_path / f"node-{node}", **rendezvous, **shape) for node in range(2)]


@pytest.mark.slow
def test_a_mistake_of_the_user_ends_every_node_of_an_elastic_job_at_once(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path
) -> None:
    address = Address(s3_server, "elastic-mistake", config_of(base, "lora.targets=[nothing]"), prompts)
    nodes = elastic_nodes(address, tmp_path)
    outputs = [node.communicate(timeout=150)[0] for node in nodes]
    codes = sorted(node.returncode for node in nodes)
    assert codes[0] == 2, outputs
    assert codes[1] in (2, 143), outputs  # one tells, the other may have ended for want of it
    assert "".join(outputs).count("error: lora.targets") == codes.count(2)
    assert "frame #" not in "".join(outputs)


@pytest.mark.slow
def test_a_node_of_an_elastic_job_that_loses_another_asks_to_be_started_again_in_few_words(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path
) -> None:
    config = config_of(base, "steps=1000", "checkpoint_every=2")
    address = Address(s3_server, "elastic-loss", config, prompts)
    nodes = elastic_nodes(address, tmp_path)
    until(lambda: address.checkpoints(), nodes[0])
    lose(nodes[0], signal.SIGKILL)
    output, _ = nodes[1].communicate(timeout=100)
    nodes[0].communicate(timeout=10)
    assert nodes[1].returncode == 143, output
    assert "frame #" not in output
    assert len([line for line in output.splitlines() if not line.startswith("train:")]) < 12, output


@pytest.mark.slow
def test_a_node_that_nobody_waits_for_saves_and_ends_for_good(
    s3_server: S3Server, base: Path, prompts: Path, tmp_path: Path
) -> None:
    address = Address(s3_server, "alone", config_of(base, "steps=1000", "checkpoint_every=1000"), prompts)
    node = address.node(tmp_path / "work", "--alone-seconds=10")
    for word in range(300):  # the launcher is heard of until the training goes on
        address.storage.write("launcher", str(word).encode())
        if (tmp_path / "work" / "model" / "metrics.jsonl").exists():
            break
        time.sleep(0.5)
    output, _ = node.communicate(timeout=120)
    assert node.returncode == 3, output
    assert "nobody waits for this training" in output
    assert len(address.checkpoints()) == 1


def test_nothing_asked_is_told(s3_server: S3Server, tmp_path: Path) -> None:
    environment = {**os.environ, **s3_server.environment}
    result = subprocess.run(
        [sys.executable, "-m", "drtune.training.node", f"s3://{BUCKET}/nothing", f"--work={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (
        2,
        f"error: s3://{BUCKET}/nothing/request: nothing is asked here; the launcher writes it first\n",
    )


# --- the mirror alone -------------------------------------------------------------------------------------------------


def test_a_store_that_is_away_is_made_whole_by_the_next_push(
    tmp_path: Path, s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    away = open_storage(f"s3://{BUCKET}/later", {**s3_server.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    here = open_storage(f"s3://{BUCKET}/later", s3_server.environment)
    mirror = Mirror(folder, away)
    (folder / "checkpoints" / "step-000001-a").write_text("one")
    mirror.push()
    assert "does not have the newest checkpoint" in capsys.readouterr().err
    mirror.storage = here
    (folder / "checkpoints" / "step-000001-a").unlink()
    (folder / "checkpoints" / "step-000002-b").write_text("two")
    (folder / "manifest.json").write_text("{}")
    mirror.push()
    assert here.keys() == ["checkpoints/step-000002-b", "manifest.json"]


def write(folder: Path, *keys: str) -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(key)


def test_a_checkpoint_of_two_machines_counts_when_both_have_stored_their_shards(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path / "store"))
    one, two = (Mirror(tmp_path / name, store) for name in ("one", "two"))
    first, second = "checkpoints/step-000001-a", "checkpoints/step-000002-b"
    write(one.folder, "metrics.jsonl", f"{first}/shard-1", f"{first}/{SHARDS}")
    write(two.folder, f"{first}/shard-2", f"{first}/{SHARDS}")
    assert two.push_shards()
    assert store.keys() == [f"{first}/shard-2"]
    assert one.push()
    assert store.keys() == [f"{first}/shard-1", f"{first}/shard-2", f"{first}/{SHARDS}", "metrics.jsonl"]

    for mirror, number in ((one, 1), (two, 2)):  # the next checkpoint takes the place of the first
        shutil.rmtree(mirror.folder / first)
        write(mirror.folder, f"{second}/shard-{number}", f"{second}/{SHARDS}")
    assert two.push_shards()
    assert f"{second}/{SHARDS}" not in store.keys()  # noqa: SIM118 - not a dict
    assert f"{first}/shard-2" in store.keys()  # noqa: SIM118 - the only one that counts is whole
    assert one.push()
    assert store.keys() == [f"{second}/shard-1", f"{second}/shard-2", f"{second}/{SHARDS}", "metrics.jsonl"]

    two.fetch(checkpoints=False)
    assert not (two.folder / second / "shard-1").exists()
    assert (two.folder / "metrics.jsonl").exists()
    two.fetch()
    assert (two.folder / second / "shard-1").exists()


def test_shards_that_cannot_be_stored_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "store", f"run/checkpoints/step-000001-a/{SHARDS}", "run/checkpoints/step-000001-a/shard-1")
    mirror = Mirror(tmp_path / "run", open_storage(str(tmp_path / "store")))  # a file, where a folder is wanted
    assert not mirror.push_shards()
    assert "does not have the newest checkpoint" in capsys.readouterr().err


def test_fetching_makes_the_folder_what_the_store_has(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path / "store"))
    mine = Mirror(tmp_path / "mine", store)
    mine.fetch()
    assert not (tmp_path / "mine").exists()
    for name, text in {"a": "1", "checkpoints/step-1": "c"}.items():
        store.write(name, text.encode())
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / "checkpoints" / "step-9").write_text("never stored")
    mine.fetch()
    files = {
        path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*") if path.is_file()
    }
    assert files == {"a", "checkpoints/step-1"}


def test_what_is_not_of_the_run_stays_where_the_mirror_is(tmp_path: Path) -> None:
    write(tmp_path / "store", ".env", "config.yaml")
    mirror = Mirror(tmp_path / "here", open_storage(str(tmp_path / "store")))
    mirror.fetch()
    write(tmp_path / "store", "of-another-job.json")
    write(tmp_path / "here", "metrics.jsonl")
    (tmp_path / "here" / "config.yaml").unlink()
    mirror.push(must=True)
    assert {path.name for path in (tmp_path / "store").iterdir()} == {".env", "of-another-job.json", "metrics.jsonl"}

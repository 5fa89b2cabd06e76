"""The whole pipeline on the miniature, through the same command that a person types."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drtune.contracts import Decision, EvaluationReport, PromptSet, RegistryEntry, TunedModel
from drtune.files.local import sha256_file
from drtune.files.output import mark
from drtune.publishing.registry import Registry
from tests.lives import pids_of, wait_until_gone
from tests.metadata import check_metadata

REGISTRY = Path("runs", "registry")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
FEW_STEPS = [
    "steps=2",
    "processes=1",
    "batch_size=2",
    "sampler.steps=4",
    "method.trained_steps=2",
    "method.early_stop=2",
]
FEW_PROMPTS = ["evaluation.max_prompts=8", "evaluation.capability.prompts=8", "evaluation.sampler.steps=2"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    rows = [
        f'"a {colour} {shape}, on a white background",{shape},{"eval" if shape == "ring" else "train"}'
        for colour in COLOURS
        for shape in SHAPES
    ]
    path.write_text("\n".join(["prompt,category,split", *rows]), encoding="utf-8")
    return path


def policy(tmp_path: Path, min_gain: float) -> Path:
    path = tmp_path / f"at least {min_gain}.yaml"
    against = {name: {"symmetry": {"min_gain": min_gain}} for name in ("base", "champion")}
    path.write_text(json.dumps({"min_prompts": 8, "against": against}), encoding="utf-8")
    return path


def command_of(tmp_path: Path, prompts: Path, *options: str, overrides: list[str]) -> list[str]:
    """`drtune-pipeline run` into tmp_path / "run", publishing in the default registry of what is the folder there.

    The configuration and the policy are those of the checkout, which that folder is not.
    """
    command = [sys.executable, "-m", "pipelines.cli.main", "run", "--prompts", str(prompts), *options]
    command += ["--out", str(tmp_path / "run"), "--name", "tried"]
    return [*command, *(f"--set={override}" for override in overrides)]


def run(tmp_path: Path, prompts: Path, *options: str, overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = command_of(tmp_path, prompts, *options, overrides=overrides)
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def run_in_two_processes(folder: Path, prompts: Path) -> str:
    """What a run says that publishes."""
    overrides = [*FEW_STEPS, *FEW_PROMPTS, "processes=2"]
    result = run(folder, prompts, "--policy", str(policy(folder, -1.0)), overrides=overrides)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("published in ")
    return result.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """A run and the registry in which it published."""
    folder = tmp_path_factory.mktemp("published")
    run_in_two_processes(folder, prompts)
    return folder


def test_two_processes_make_a_published_model_that_can_be_followed_back(published: Path, prompts: Path) -> None:
    out = published / "run"
    check_metadata(out / "steps")
    prompt_set, model = PromptSet.load(out / "prompt_set"), TunedModel.load(out / "model")
    entry = RegistryEntry.load(out / "entry")
    assert prompt_set.source.sha256 == sha256_file(prompts)
    assert model.prompts == prompt_set
    assert model.step == 2
    assert entry.model == model
    assert entry.decision == Decision.load(out / "decision")
    assert Registry(str(published / REGISTRY)).show("tried") == entry
    assert "<h1>Publish</h1>" in (out / "decision" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_run_again_finds_its_own_version(published: Path, prompts: Path, tmp_path: Path) -> None:
    """As after a kill between the publication and the end of the run."""
    shutil.copytree(published / REGISTRY, tmp_path / REGISTRY)
    run_in_two_processes(tmp_path, prompts)
    out = tmp_path / "run"
    contestants = EvaluationReport.load(out / "report").contestants
    assert [one.role for one in contestants] == ["candidate", "base"]  # its champion would be itself
    assert "tried v1 is this model already: no new version is made" in (out / "pipeline.log").read_text("utf-8")
    assert RegistryEntry.load(out / "entry") == Registry(str(tmp_path / REGISTRY)).show("tried", "v1")
    assert [entry.version for entry in Registry(str(tmp_path / REGISTRY)).list()] == ["v1"]


@pytest.mark.slow
def test_a_model_that_the_policy_refuses_is_not_published_and_the_run_succeeds(tmp_path: Path, prompts: Path) -> None:
    overrides = [*FEW_STEPS, *FEW_PROMPTS]
    result = run(tmp_path, prompts, "--policy", str(policy(tmp_path, 0.99)), overrides=overrides)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("not published")
    assert not Decision.load(tmp_path / "run" / "decision").publish
    assert not (tmp_path / REGISTRY).exists()


@pytest.mark.slow
def test_a_step_that_fails_is_named_and_nothing_is_published(tmp_path: Path, prompts: Path) -> None:
    result = run(tmp_path, prompts, overrides=[*FEW_STEPS, "height=30"])  # as only the base that is loaded can tell
    assert result.returncode == 2
    assert result.stderr.startswith("error: step train: ")
    assert "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / REGISTRY).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_pipeline_alone_ends_its_training_which_saves_its_state(
    tmp_path: Path, prompts: Path, number: signal.Signals
) -> None:
    command = command_of(
        tmp_path, prompts, overrides=[*FEW_STEPS, "steps=5000", "checkpoint_every=5000", "processes=2"]
    )
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pipeline:
        while not any(log.read_text() for log in tmp_path.glob("run/steps/tune-*/train/model/metrics.jsonl")):
            assert pipeline.poll() is None, pipeline.communicate()
            time.sleep(0.1)
        started = pids_of(str(tmp_path))
        assert len(started) >= 6  # pipeline, shell, step, torchrun, two processes
        pipeline.send_signal(number)
        pipeline.communicate()
    assert pipeline.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until_gone(*started)
    assert pids_of(str(tmp_path)) == []
    assert len(list(tmp_path.glob("run/steps/tune-*/train/model/checkpoints/step-*.safetensors"))) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, prompts: Path) -> None:
    overrides = [*FEW_STEPS, *FEW_PROMPTS, "steps=30", "checkpoint_every=1"]
    command = command_of(tmp_path, prompts, "--policy", str(policy(tmp_path, -1.0)), overrides=overrides)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as pipeline:
        while len(list(tmp_path.glob("run/steps/tune-*/train/model/checkpoints/step-*"))) < 2:
            assert pipeline.poll() is None
            time.sleep(0.05)
        started = pids_of(str(tmp_path))
        pipeline.kill()
    wait_until_gone(*started)
    [killed] = tmp_path.glob("run/steps/tune-*")
    assert list(tmp_path.glob("run/steps/tmp-*"))

    other = subprocess.run([*command, "--resume", "--set=seed=3"], cwd=tmp_path, capture_output=True, text=True)
    assert (other.returncode, "was begun with another overrides" in other.stderr) == (2, True)
    again = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "prepare-prompts" not in again.stdout
    assert again.stdout.splitlines()[-1].startswith("published in ")
    assert (tmp_path / "run" / "prompt_set").resolve().parents[1] == killed
    assert (tmp_path / "run" / "model").resolve().parents[1] != killed
    assert len((tmp_path / "run" / "model" / "metrics.jsonl").read_text().splitlines()) == 30
    assert not list(tmp_path.glob("run/steps/tmp-*"))


def no_prompts(tmp_path: Path) -> Path:
    path = tmp_path / "no_prompts.csv"
    path.write_text("prompt\n", encoding="utf-8")
    return path


def test_unusable_prompts_are_named_with_their_step(tmp_path: Path) -> None:
    result = run(tmp_path, no_prompts(tmp_path), overrides=[])
    assert result.returncode == 2
    assert result.stderr.startswith("error: step prepare-prompts: ")
    assert "no_prompts.csv" in result.stderr


def test_a_prompts_file_that_is_not_there_costs_no_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pipeline.log").touch()
    result = run(tmp_path, tmp_path / "nothing.csv", "--overwrite", overrides=[])
    assert (result.returncode, result.stdout) == (2, "")
    assert "nothing.csv: not there; give the path of a file" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["pipeline.log"]


def test_a_wrong_key_is_found_before_the_first_step_and_leaves_nothing(tmp_path: Path, prompts: Path) -> None:
    result = run(tmp_path, prompts, overrides=["stepz=2"])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: stepz: no such key")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_is_repeated_in_its_place_only_when_asked_to(tmp_path: Path, prompts: Path) -> None:
    note = tmp_path / "run" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine", encoding="utf-8")
    assert "exists already" in run(tmp_path, prompts, overrides=[]).stderr
    (note.parent / "pipeline.log").write_text("of somebody else's pipeline", encoding="utf-8")
    assert "files that drtune did not write" in run(tmp_path, prompts, "--overwrite", overrides=[]).stderr
    mark(note.parent, "PipelineRun")
    for _ in range(2):
        run(tmp_path, no_prompts(tmp_path), "--overwrite", overrides=[])
        assert len(list((tmp_path / "run" / "steps").glob("tune-*"))) == 1
    assert note.read_text(encoding="utf-8") == "mine"

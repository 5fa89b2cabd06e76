"""The pipeline for a schedule, run here: nothing happens unless something drifted, and every run tells its outcome."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from drtune.contracts import TunedModel
from drtune.files.local import sha256_file
from pipelines.local.display import Failure
from pipelines.local.run import run_here
from pipelines.retrain import retrain
from pipelines.server.package import Package
from tests.metadata import check_metadata

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
SMALL = [
    "steps=1",
    "processes=1",
    "batch_size=2",
    "sampler.steps=4",
    "method.trained_steps=2",
    "evaluation.max_prompts=8",
]
SMALL += ["evaluation.sampler.steps=2", "evaluation.capability.prompts=0"]


def write(path: Path, template: str) -> Path:
    texts = [template.format(one, shape, other) for one in COLOURS for other in COLOURS for shape in SHAPES]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def run(tmp_path: Path, incoming: Path, **arguments: Any) -> tuple[Failure | None, list[str]]:
    """Retrain for these prompts; the steps that were done, in their order."""
    trained = write(tmp_path / "trained.txt", "a {} {} above a {} ring, on a white background")
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps({"min_prompts": 8, "against": {"base": {"symmetry": {"max_drop": 1.0}}}}))
    given = {"reference": trained, "incoming": incoming, "policy": policy}
    paths = {name: str(path) for name, path in given.items()}
    places = {"registry": str(tmp_path / "registry"), "name": "tried", "overrides": SMALL}
    defaults, screen = Package.read(ROOT / "pipelines" / "retrain.yaml").defaults, io.StringIO()
    failure = run_here(retrain, tmp_path / "steps", defaults | paths | places | arguments, screen, io.StringIO())
    check_metadata(tmp_path / "steps")
    return failure, [line.split()[1] for line in screen.getvalue().splitlines() if " done in " in line]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the paths of the defaults start there


def test_nothing_is_trained_while_nothing_drifts(tmp_path: Path) -> None:
    incoming = write(tmp_path / "incoming.txt", "a {} {} above a {} ring, on a white background")
    assert run(tmp_path, incoming) == (None, ["monitor"])


@pytest.mark.slow
def test_what_drifted_is_tuned_and_published_and_the_outcome_told(tmp_path: Path) -> None:
    incoming = write(tmp_path / "incoming.txt", "oil painting of one enormous {} whale, its {} fins, and a {} storm")
    steps = ["monitor", "prepare-prompts", "train", "evaluate", "decide", "publish", "finish"]
    assert run(tmp_path, incoming) == (None, steps)
    [outcome] = (tmp_path / "steps").glob("*/finish/outcome")
    assert outcome.read_text(encoding="utf-8").startswith("# Done\n")
    [card] = (tmp_path / "registry").rglob("README.md")
    text, reference = card.read_text(encoding="utf-8"), tmp_path / "trained.txt"
    assert f"/trained.txt, sha256 {sha256_file(reference)} |\n" in text
    assert f"/incoming.txt, sha256 {sha256_file(incoming)} |\n" in text
    prompts = TunedModel.load(card.parent).prompts
    assert prompts.num_train + prompts.num_eval == 2 * len(COLOURS) ** 2 * len(SHAPES)
    assert f"\n| Prompts sha256 | {prompts.sha256} |\n" in text


def test_a_run_can_be_forced_and_one_that_fails_is_not_tried_again_here_and_says_so(tmp_path: Path) -> None:
    incoming = write(tmp_path / "incoming.txt", "a {} {} above a {} ring, on a white background")
    failure, done = run(tmp_path, incoming, force=True, config="nowhere.yaml")
    assert failure is not None
    assert (failure.step, failure.by_user) == ("prepare-prompts", True)
    assert done == ["monitor", "finish"]
    [outcome] = (tmp_path / "steps").glob("*/finish/outcome")
    assert outcome.read_text(encoding="utf-8").startswith("# Failed\n")

"""What the tests of the evaluation share: tuned models of every base at tiny size, and prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from drtune.prompts.prepare import Prompt, prepare
from tests.pipelines import FolderOf, side_of
from tests.tuned import make_tuned

COLOURS = ("red", "blue", "black", "green", "grey", "rose", "brown", "gold")
PROMPTS = [Prompt(f"a {colour} circle", colour[0]) for colour in COLOURS]
REWARDS = "[symmetry, brightness]"
OVERRIDES = [
    "evaluation.sampler={steps: 2, guidance_scale: 2.0, negative_prompt: a star}",
    "evaluation.batch_size=4",
    f"evaluation.rewards={REWARDS}",
    "evaluation.features=preference",
]

ModelOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory, folder_of: FolderOf) -> ModelOf:
    """A tuned model of each kind of base, made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        if not (root / kind).exists():
            size = [f"height={side_of(kind)}", f"width={2 * side_of(kind)}"]
            if kind == "flux2_klein":  # takes the empty one alone
                size.append("evaluation.sampler.negative_prompt=")
            make_tuned(root / kind, str(folder_of(kind)), *OVERRIDES, *size)
        return root / kind

    return make


@pytest.fixture(scope="session")
def prompts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("prompts"), PROMPTS)


def prepared(folder: Path, prompts: Sequence[Prompt]) -> Path:
    """A PromptSet with these prompts held out."""
    rows = [{"text": prompt.text, "category": prompt.category, "split": "eval"} for prompt in prompts]
    rows.append({"text": "a training prompt", "category": "r", "split": "train"})
    (folder / "source.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(folder / "source.jsonl", folder / "set")
    return folder / "set"

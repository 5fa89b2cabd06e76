"""What is written beside an artifact can be stored by Kubeflow, whatever a model's numbers are."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from components.metadata import describe
from tests.metadata import check_metadata

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


def written(folder: Path, metadata: dict[str, object]) -> Path:
    step = folder / "tune-2026" / "train"
    step.mkdir(parents=True, exist_ok=True)
    output = {"artifacts": {"model": {"artifacts": [{"name": "model", "uri": "model", "metadata": metadata}]}}}
    (step / "executor_output.json").write_text(json.dumps(output), encoding="utf-8")
    return folder


@given(values=st.dictionaries(st.text(), VALUES))
def test_whatever_is_described_can_be_stored(
    values: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    artifact = dsl.Artifact(name="model", uri="model", metadata={})
    describe(artifact, values)
    check_metadata(written(tmp_path_factory.mktemp("steps"), artifact.metadata))
    assert set(artifact.metadata) == {key for key, value in values.items() if value is not None}


def test_a_number_that_is_not_finite_is_told_and_what_is_finite_stays() -> None:
    metrics = dsl.Metrics(name="metrics", uri="metrics", metadata={"before": 1})
    describe(metrics, {"reward": math.nan, "loss": -math.inf, "updates": 3, "champion": None, "kept": [0.5, math.inf]})
    assert metrics.metadata == {"before": 1, "reward": "nan", "loss": "-inf", "updates": 3, "kept": [0.5, "inf"]}


@pytest.mark.parametrize("metadata", [{"scores": None}, {"reward": math.nan}, {"nested": [{"deep": math.inf}]}])
def test_the_check_finds_what_the_launcher_refuses(metadata: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="metadata of model"):
        check_metadata(written(tmp_path, metadata))

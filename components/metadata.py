"""What a step writes beside an artifact: only values that Kubeflow can store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import dsl


def describe(artifact: dsl.Artifact, values: Mapping[str, Any]) -> None:
    """Add values of JSON's kinds to the metadata of an artifact.

    Kubeflow's launcher cannot store a null under a key (StructValueToMLMDValue in its
    backend/src/v2/metadata/converter.go) and reads no NaN: the step would fail after its work is done. What is None is
    left out, and a number that is not finite, such as the reward of a training that diverged, becomes "nan" or "inf".

    Metrics are nothing else, and get an empty file: kfp takes a step whose artifacts are not all there for unfinished.
    """
    if isinstance(artifact, dsl.Metrics):
        Path(artifact.path).touch()
    artifact.metadata.update({key: _finite(value) for key, value in values.items() if value is not None})


def _finite(value: Any) -> Any:
    """`value` with every number in it that is not finite as a word."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {key: _finite(part) for key, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
    return value

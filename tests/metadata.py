"""The rule of Kubeflow's launcher for what a step writes beside its artifacts, held against what a local run left."""

from __future__ import annotations

import json
from pathlib import Path


def check_metadata(steps: Path) -> None:
    """Refuse what the launcher refuses in the output of any step of the runs below `steps`.

    Under a key it stores text, numbers, truth values, lists and objects, but no null (StructValueToMLMDValue in
    backend/src/v2/metadata/converter.go of Kubeflow Pipelines 2.17.0), and its JSON has no NaN and no infinity.
    """
    outputs = list(steps.glob("*/*/executor_output.json"))
    assert outputs, f"no step wrote anything below {steps}"
    for path in outputs:
        written = json.loads(path.read_text(encoding="utf-8"))
        for kind, made in written.get("artifacts", {}).items():
            for artifact in made["artifacts"]:
                where = f"{path.parent.name}: metadata of {kind}"
                nulls = [key for key, value in artifact["metadata"].items() if value is None]
                assert not nulls, f"{where}: null under {nulls}"
                try:
                    json.dumps(artifact["metadata"], allow_nan=False)
                except ValueError:
                    raise AssertionError(f"{where}: a number that is not finite") from None
